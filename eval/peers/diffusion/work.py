"""What every peer starts from: the same prompts, the same drawn states, one budget of model evaluations, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion.concepts import name_of, vocabulary_of
from semu_diffusion.diffusion.config import EraseConfig, defaults
from semu_diffusion.diffusion.erasers.task import Task
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.pipeline import TEXT_ENCODERS, base_name, denoiser, model_path
from semu_diffusion.diffusion.plan import make_plan
from semu_diffusion.evaluation.suites.pictograms import GUIDANCE, SAMPLER_STEPS

from .own import own_prompts

HALF = 2  # bytes of a number as it is shipped

ONE = defaults(concepts=1)


@dataclass(frozen=True)
class Budget:
    """What every method may spend; by default what `semu erase` takes with its own defaults, rounded up.

    evaluations: Samples that go through the denoiser, with or without a gradient: drawing, teachers and training.
    latents, keep_latents: Pictures that the model draws of the concept and of other things.
    sampler_steps, guidance: How it draws them; each step is one record.
    batch_size: Forgotten, and as many kept, records per step.
    """

    evaluations: int = 6_000
    latents: int = ONE["latents"]
    keep_latents: int = ONE["keep_latents"]
    sampler_steps: int = SAMPLER_STEPS
    guidance: float = GUIDANCE
    batch_size: int = ONE["batch_size"]


class Meter:
    """Counts the samples that pass through a model while it is watched; `trained` are those with a gradient."""

    def __init__(self, model: nn.Module):
        self.samples = self.trained = 0
        self.handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        n = len(args[0] if args else kwargs["sample"])
        self.samples += n
        self.trained += n * torch.is_grad_enabled()

    def close(self) -> None:
        self.handle.remove()


@dataclass
class Edited:
    """An edited pipeline with what the edit weighs: numbers that were trained or solved for, bytes to ship in fp16."""

    pipe: object
    trained: int
    shipped: int


class Work(Task):
    """One edit of a Stable Diffusion 1/2 pipeline, frozen and in eval mode, within a budget.

    Args:
        prompts: "shared", what `semu erase` trains on; or one of `own.OWN`, what the method's authors use.
        anchor: As in `semu erase`, for shared prompts: None for the nearest other thing, "random" for others.
        keep: Whether the method keeps other things; if not, nothing is drawn for that.
        steer: As in `Task.draw`.
        draw: False for closed forms, which need no states, and for erasers of the package, which draw by themselves.
        cost: Evaluations of a training step of such an eraser, which gets as many steps as the budget pays for.
        **choices: Fields of `EraseConfig`.

    Raises:
        ValueError: another kind of pipeline, an unknown `steer`, or a budget that the drawing alone would spend.
    """

    def __init__(
        self, pipe, concept: str, budget: Budget, seed: int, prompts: str = "shared", anchor: str | None = None,
        keep: bool = True, steer: str = "both", draw: bool = True, cost: int = 0, **choices,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.concept, self.budget, self.seed, self.cost = concept, budget, seed, cost
        family = family_of(pipe)
        for name in ("vae", *TEXT_ENCODERS):
            if isinstance(part := getattr(pipe, name, None), nn.Module):
                part.requires_grad_(False).eval()
        family.model.requires_grad_(False).eval()
        self.meter = Meter(family.model)
        config = EraseConfig(
            concept=concept, anchor=anchor if prompts == "shared" else None, seed=seed, latents=budget.latents,
            keep_latents=budget.keep_latents, sampler_steps=budget.sampler_steps, guidance=budget.guidance,
            prompts="sentences", **{"batch_size": budget.batch_size, **choices},
        )  # fmt: skip
        words = vocabulary_of(model_path(base_name(pipe)))
        if prompts == "shared":
            plan, config = make_plan(family, config, words, [], Callback())
            pairs, kept = plan.pairs, plan.keep
        else:
            pairs, kept = own_prompts(prompts, concept, words, budget.keep_latents, seed)
        super().__init__(family, config, pairs, [name_of(concept)], kept)
        if draw:
            self.draw(steer, keep)

    def draw(self, steer: str = "concept", keep: bool = False) -> None:
        """`Task.draw`, after which the steps are as many as the budget still pays for."""
        super().draw(steer, keep)
        if self.meter.samples >= self.budget.evaluations:
            raise ValueError(
                f"drawing took {self.meter.samples} of {self.budget.evaluations} evaluations; raise the budget or draw "
                "less"
            )
        if self.cost:
            self.config = replace(self.config, steps=self.affordable(self.cost))

    def pick_kept(self, n: int) -> torch.Tensor:
        """n records to keep: about 7 of 10 of kept prompts, the rest of the empty prompt and the anchors."""
        near = round(0.3 * n) if len(self.near) else 0
        return (
            torch.cat([self.pick(self.keep, n - near), self.pick(self.near, near)]) if near else self.pick(self.keep, n)
        )

    def rounds(self, cost: int) -> Iterator[int]:
        """Step numbers for as long as a step of `cost` evaluations fits the budget.

        Raises:
            ValueError: not even one does.
        """
        step = 0
        self.affordable(cost)
        while self.steps(cost):
            yield step
            step += 1

    def affordable(self, cost: int) -> int:
        """How many such steps there are. ValueError for none."""
        if self.steps(cost) < 1:
            raise ValueError(f"the budget of {self.budget.evaluations} evaluations leaves no step of {cost}")
        return self.steps(cost)

    def steps(self, cost: int) -> int:
        """How many such rounds are left."""
        return (self.budget.evaluations - self.meter.samples) // cost

    # -------------------------------------------------------------------------------------- parameters

    def parameters(self, scope: str = "all") -> dict[str, nn.Parameter]:
        """Parameters of the denoiser by name, made trainable.

        Args:
            scope: "all"; "cross-attention"; "keys-values" of cross-attention; or "unconditional": all but
                cross-attention, time embedding and the last convolution (ESD's noxattn).
        """
        tests = {
            "all": lambda name: True,
            "cross-attention": lambda name: ".attn2." in name,
            "keys-values": lambda name: ".attn2.to_k" in name or ".attn2.to_v" in name,
            "unconditional": lambda name: not any(p in name for p in (".attn2.", "time_embedding", "conv_out")),
        }
        found = {name: p for name, p in self.model.named_parameters() if tests[scope](name)}
        if not found:
            raise ValueError(f"the model has no parameters of scope {scope!r}")
        for p in found.values():
            p.requires_grad_(True)
        return found

    def done(self, trained: int, shipped: int | None = None) -> Edited:
        """Freezes the model and reports; without `shipped` the trained numbers themselves are what is shipped."""
        self.model.requires_grad_(False).eval()
        self.meter.close()
        return Edited(self.pipe, trained, HALF * trained if shipped is None else shipped)

    @torch.no_grad()
    def added(self, deltas: dict[str, torch.Tensor]) -> Edited:
        """The model with what an eraser of the package adds to its layers, D (m, n) by name."""
        for name, D in deltas.items():
            W = self.model.get_submodule(name).weight
            W += D.reshape(W.shape).to(W)
        return self.done(sum(D.numel() for D in deltas.values()))


def update(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, masks: Iterable[torch.Tensor] | None = None, clip: float = 0.0
) -> None:
    """One optimizer step on a loss; gradients are multiplied by masks and clipped to a norm where these are given.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}; lower the learning rate")
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p, mask in zip(parameters, masks or ()):
        if p.grad is not None:
            p.grad *= mask
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad()


def size(parameters: dict[str, torch.Tensor]) -> int:
    """Numbers in all of them."""
    return sum(p.numel() for p in parameters.values())


def parameter_count(pipe) -> int:
    """Numbers in the denoiser."""
    return sum(p.numel() for p in denoiser(pipe).parameters())
