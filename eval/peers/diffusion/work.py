"""What every peer starts from: the same prompts, the same drawn states, one budget of model evaluations, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from semu_diffusion.diffusion.concepts import Pair, vocabulary_of
from semu_diffusion.diffusion.config import defaults
from semu_diffusion.diffusion.data import BATCH, spread
from semu_diffusion.diffusion.families import family_of, moved, select
from semu_diffusion.diffusion.objectives import OBJECTIVES, squared_error
from semu_diffusion.diffusion.pipeline import TEXT_ENCODERS, base_name, denoiser, model_path
from semu_diffusion.diffusion.states import ANCHOR, EMPTY, FORGET, KEEP, Contexts, States, draw_records, gather
from semu_diffusion.evaluation.suites.pictograms import GUIDANCE, SAMPLER_STEPS

ONE = defaults(concepts=1)
STEERS = ("both", "concept", "anchor")


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
    """An edited pipeline with what the edit weighs: numbers that were trained or solved for, bytes to ship in fp32."""

    pipe: object
    trained: int
    shipped: int


class Work:
    """Prompts, records and batches of one edit of a Stable Diffusion 1/2 pipeline, frozen and in eval mode.

    Args:
        anchor: As in `semu erase`: "" for the prompt without the concept, "random" for others of its kind, None.
        keep: Whether the method keeps other things; if not, nothing is drawn for that.
        steer: Which prompt leads the concept's trajectories: its own, its anchor's, or every second one each.
        draw: False for closed forms, which need no states.

    Raises:
        ValueError: another kind of pipeline, an unknown `steer`, or a budget that the drawing alone would spend.
    """

    def __init__(
        self, pipe, concept: str, budget: Budget, seed: int, anchor: str | None = None, keep: bool = True,
        steer: str = "both", draw: bool = True,
    ):  # fmt: skip
        if steer not in STEERS:
            raise ValueError(f"steer must be one of {', '.join(STEERS)}, got {steer!r}")
        torch.manual_seed(seed)
        self.pipe, self.concept, self.budget, self.seed, self.steer = pipe, concept, budget, seed, steer
        self.family = family_of(pipe)
        self.model, self.device = self.family.model, self.family.model.device
        for name in ("vae", *TEXT_ENCODERS):
            if isinstance(part := getattr(pipe, name, None), nn.Module):
                part.requires_grad_(False).eval()
        self.model.requires_grad_(False).eval()
        self.vocabulary = vocabulary_of(model_path(base_name(pipe)))
        self.pairs = self.family.pairs([concept], anchor, self.vocabulary, seed)
        self.keep_prompts = self.family.keep([concept], self.vocabulary, budget.keep_latents, seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.meter = Meter(self.model)
        if draw:
            self.states = self._draw(keep)
            self.values = moved(self.states.contexts, self.device)
            self.forget, self.keep = self.states.of_kind(FORGET), self.states.of_kind(KEEP)
            self.near = self.states.of_kind(EMPTY, ANCHOR)  # on the concept's own trajectories

    def _draw(self, keep: bool) -> States:
        """The records of the concept's trajectories and, where asked for, of the kept prompts'."""
        budget, seed = self.budget, self.seed
        forget = spread(self.pairs, budget.latents, seed)
        kept = [Pair(p, "") for p in self.keep_prompts] if keep else []
        self.contexts = Contexts(self.family, [p for pair in (*forget, *kept) for p in (pair.prompt, pair.anchor)])
        lead = {"both": lambda k: k % 2 == 0, "concept": lambda k: True, "anchor": lambda k: False}[self.steer]

        def drawn(pairs: list[Pair], steer: list[bool], start: int) -> list[dict]:
            return draw_records(self.family, self.contexts, pairs, steer, budget.sampler_steps, budget.guidance,
                                start, BATCH, lambda n: None)  # fmt: skip

        records = drawn(forget, [lead(k) for k in range(len(forget))], seed)
        states = gather(records, drawn(kept, [True] * len(kept), seed + 10**6), [], self.contexts)
        if self.meter.samples >= budget.evaluations:
            raise ValueError(
                f"drawing took {self.meter.samples} of {budget.evaluations} evaluations; raise the budget or draw less"
            )
        return states

    # ------------------------------------------------------------------------------------------ batches

    def pick(self, index: torch.Tensor, n: int) -> torch.Tensor:
        """n of these records (N,), with replacement."""
        return index[torch.randint(len(index), (n,), generator=self.generator)]

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
        if self.meter.samples + cost > self.budget.evaluations:
            raise ValueError(f"the budget of {self.budget.evaluations} evaluations leaves no step of {cost}")
        step = 0
        while self.meter.samples + cost <= self.budget.evaluations:
            yield step
            step += 1

    def steps(self, cost: int) -> int:
        """How many such rounds are left."""
        return (self.budget.evaluations - self.meter.samples) // cost

    # ----------------------------------------------------------------------------------------- losses

    def predict(self, index: torch.Tensor, prompt: torch.Tensor | None = None) -> torch.Tensor:
        """The model's predictions (B, C, H, W) at records, under their own or other rows of prompts (B,)."""
        s, rows = self.states, self.states.prompt[index] if prompt is None else prompt
        x, t = s.x[index].to(self.device), s.t[index].to(self.device)
        return self.family.call(self.model, x, t, select(self.values, rows.to(self.device)))

    def targets(self, index: torch.Tensor, objective: str = "redirect", strength: float = 0.0) -> torch.Tensor:
        """Where the records shall go, from the frozen model's predictions there."""
        parts = (getattr(self.states, key)[index].to(self.device) for key in ("concept", "anchor", "empty"))
        return OBJECTIVES[objective](*parts, strength)

    def distance(self, index: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the predictions at records to a target."""
        return squared_error(self.predict(index), target)

    def drift(self, index: torch.Tensor) -> torch.Tensor:
        """The keep loss: mean squared error to the frozen model's own predictions at records."""
        return self.distance(index, self.states.concept[index].to(self.device))

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
        return Edited(self.pipe, trained, 4 * trained if shipped is None else shipped)


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
