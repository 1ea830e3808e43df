"""Selective Amnesia: Heng and Soh, NeurIPS 2023 (arXiv 2305.10120): elastic weights and generative replay."""

from __future__ import annotations

import torch
from torch import nn

from .work import Budget, Edited, Work, size, update

FISHER_SAMPLES = 128


def selective_amnesia(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "image", lr: float = 1e-4, elastic: float = 1e-2,
    replay: float = 1.0,
) -> Edited:  # fmt: skip
    """Eq. 7: the concept's prompts learn a surrogate, while kept ones are replayed and the weights are elastic.

    The surrogate pictures are those of the anchor, with the frozen model's denoising of them.

    Args:
        elastic: Weight of the penalty, for Fisher information divided by its mean over all weights. The paper's 50 is
            for information as it is, whose mean is far below 1.
    """
    work = Work(pipe, concept, budget, seed, prompts, steer="anchor")
    parameters, n = work.parameters("all"), budget.batch_size
    F = fisher(work, parameters, min(FISHER_SAMPLES, len(work.keep)))
    start = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr)
    for _ in work.rounds(2 * n):
        index = work.pick(work.forget, n)
        loss = work.distance(index, work.targets(index)) + replay * work.drift(work.pick_kept(n))
        update(optimizer, loss + elastic * penalty(parameters, start, F))
    return work.done(size(parameters))


def fisher(work: Work, parameters: dict[str, nn.Parameter], samples: int) -> dict[str, torch.Tensor]:
    """Diagonal Fisher information on kept prompts, divided by its mean.

    The denoiser is a Gaussian N(eps(x_t, c), 1) of what it predicts: with y drawn from that, the squared gradient of
    |eps - y|^2 / 2 has the Fisher information as its mean. One sample at a time, as squares do not add up.
    """
    F = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for index in work.pick(work.keep, samples).split(1):
        predicted = work.predict(index)
        noise = torch.randn(predicted.shape, generator=work.generator).to(predicted)
        grads = torch.autograd.grad((predicted * noise).sum(), parameters.values(), allow_unused=True)
        for total, grad in zip(F.values(), grads):
            if grad is not None:
                total += grad.square() / samples
    mean = sum(f.sum() for f in F.values()) / size(F)
    return {name: f / mean.clamp_min(1e-30) for name, f in F.items()}


def penalty(
    parameters: dict[str, nn.Parameter], start: dict[str, torch.Tensor], F: dict[str, torch.Tensor]
) -> torch.Tensor:
    """sum F (theta - theta_0)^2 / 2."""
    return sum((F[name] * (p - start[name]).square()).sum() for name, p in parameters.items()) / 2
