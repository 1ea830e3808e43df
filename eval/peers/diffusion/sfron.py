"""SFR-on: Huang et al., "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement", NeurIPS 2024
(arXiv 2409.19732)."""

from __future__ import annotations

import math

import torch
from torch import nn

from semu_diffusion.diffusion.objectives import squared_error

from .pictures import clean_latents, noising_errors
from .work import Budget, Edited, Work, size, update

FISHER_SAMPLES = 64


def sfron(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "image", lr: float = 3e-5,
    forget_weight: float = 1.0, threshold: float = 1.0, power: float = 0.5,
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
    work = Work(pipe, concept, budget, seed, prompts, steer="concept")
    parameters, n = work.parameters("all"), budget.batch_size
    latents, rows = clean_latents(work)
    masks = fisher_ratio(work, parameters, latents, rows, threshold)
    optimizer = torch.optim.Adam(parameters.values(), lr)  # one for both turns: it weighs them against each other
    total = max(1, work.steps(2 * n))
    for step in work.rounds(2 * n):
        share = forget_weight * (1 + math.cos(math.pi * step / total)) / 2
        update(optimizer, -share * ascent(noising_errors(work, latents, rows, n), power), masks, clip=7.0)
        update(optimizer, work.drift(work.pick_kept(n)))
    return work.done(size(parameters))


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
