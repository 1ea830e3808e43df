"""SFR-on: Huang et al., "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement", NeurIPS 2024
(arXiv 2409.19732)."""

from __future__ import annotations

import math

import torch
from torch import nn

from semu_diffusion.diffusion.data import BATCH
from semu_diffusion.diffusion.objectives import squared_error

from .work import Budget, Edited, Work, size, update

FISHER_SAMPLES = 64


def sfron(
    pipe, concept: str, budget: Budget, seed: int, lr: float = 3e-5, forget_weight: float = 1.0, threshold: float = 1.0,
    power: float = 0.5,
) -> Edited:  # fmt: skip
    """Turns masked, adaptively weighted ascent on the concept and descent on what is kept (algorithm 1).

    Ascent needs what the model was trained to predict: noise on pictures. The pictures are the model's own, the ends
    of its trajectories under the concept.

    Args:
        forget_weight: Of the ascent, falling to 0 along half a cosine.
        threshold: Weights whose Fisher information on the concept is at least this many times that on kept prompts
            take part in the ascent (eq. 14).
        power: A sample's weight is 1 / loss^power (eq. 13), so that those already forgotten count less.
    """
    work = Work(pipe, concept, budget, seed, steer="concept")
    parameters, n = work.parameters("all"), budget.batch_size
    latents, rows = clean_latents(work)
    masks = fisher_ratio(work, parameters, latents, rows, threshold)
    up, down = (torch.optim.Adam(parameters.values(), lr) for _ in range(2))
    total = max(1, work.steps(2 * n))
    for step in work.rounds(2 * n):
        share = forget_weight * (1 + math.cos(math.pi * step / total)) / 2
        update(up, -share * ascent(noising_errors(work, latents, rows, n), power), masks, clip=7.0)
        update(down, work.drift(work.pick_kept(n)))
    return work.done(size(parameters))


def clean_latents(work: Work) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures at the ends of the concept's trajectories (N, C, H, W), and their prompts' rows (N,)."""
    s, family, steps = work.states, work.family, work.budget.sampler_steps
    batches = [min(BATCH, work.budget.latents - k) for k in range(0, work.budget.latents, BATCH)]
    blocks = work.forget.split([n for n in batches for _ in range(steps)])  # as recorded: batch by batch, step by step
    index = torch.cat(blocks[steps - 1 :: steps])
    led = s.empty[index] + work.budget.guidance * (s.concept[index] - s.empty[index])
    return family.step(s.x[index].float(), led.float(), s.t[index], torch.full_like(s.t[index], -1)), s.prompt[index]


def noising_errors(work: Work, latents: torch.Tensor, rows: torch.Tensor, n: int) -> torch.Tensor:
    """The training loss of n freshly noised pictures, (n,)."""
    pick = torch.randint(len(latents), (n,), generator=work.generator)
    clean, t = latents[pick], work.family.times(torch.rand(n, generator=work.generator))
    noise = torch.randn(clean.shape, generator=work.generator)
    x, truth = (f(clean, noise, t).to(work.device) for f in (work.family.noised, work.family.truth))
    conditions = {key: value[rows[pick]] for key, value in work.values.items()}
    error = work.family.call(work.model, x, t.to(work.device), conditions) - truth
    return error.square().flatten(1).mean(1)


def ascent(errors: torch.Tensor, power: float) -> torch.Tensor:
    """Mean of the errors (n,), each weighted by 1 / error^power, the weights' mean being 1."""
    weight = errors.detach().clamp_min(1e-8) ** -power
    return (weight / weight.mean() * errors).mean()


def fisher_ratio(
    work: Work, parameters: dict[str, nn.Parameter], latents: torch.Tensor, rows: torch.Tensor, threshold: float
) -> list[torch.Tensor]:
    """1 where the squared gradients of the concept's loss are at least `threshold` times those of kept prompts."""

    def squares(loss) -> list[torch.Tensor]:
        sums = [torch.zeros_like(p) for p in parameters.values()]
        for _ in range(min(FISHER_SAMPLES, len(work.forget))):
            for total, grad in zip(sums, torch.autograd.grad(loss(), parameters.values(), allow_unused=True)):
                if grad is not None:
                    total += grad.square()
        return sums

    def kept() -> torch.Tensor:
        index = work.pick(work.keep, 1)
        predicted = work.predict(index)  # the loss to a noisy answer: its gradient is not 0 at the start
        noise = torch.randn(predicted.shape, generator=work.generator).to(predicted)
        return squared_error(predicted, (predicted + noise).detach())

    forget = squares(lambda: noising_errors(work, latents, rows, 1).mean())
    return [(f >= threshold * k).to(f.dtype) for f, k in zip(forget, squares(kept))]
