"""ESD: Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023 (arXiv 2303.07345)."""

from __future__ import annotations

import torch

from .work import Budget, Edited, Work, size, update


def esd(pipe, concept: str, budget: Budget, seed: int, scope: str, lr: float, strength: float) -> Edited:
    """Eq. 7: eps(x_t, c) is led to eps*(x_t) - strength (eps*(x_t, c) - eps*(x_t)) of the frozen model.

    The paper draws x_t with the model under training; here it comes from the frozen model's trajectories under c, as
    for all peers, and the frozen predictions with it.
    """
    work = Work(pipe, concept, budget, seed, keep=False, steer="concept")
    parameters = work.parameters(scope)
    optimizer = torch.optim.Adam(parameters.values(), lr)
    for _ in work.rounds(2 * budget.batch_size):
        index = work.pick(work.forget, 2 * budget.batch_size)
        update(optimizer, work.distance(index, work.targets(index, "negative", strength)))
    return work.done(size(parameters))


def esd_x(pipe, concept: str, budget: Budget, seed: int, lr: float = 1e-4, strength: float = 1.0) -> Edited:
    """ESD-x trains cross-attention: for concepts that the prompt names."""
    return esd(pipe, concept, budget, seed, "cross-attention", lr, strength)


def esd_u(pipe, concept: str, budget: Budget, seed: int, lr: float = 3e-5, strength: float = 1.0) -> Edited:
    """ESD-u trains everything else: for concepts that shall go whatever the prompt says."""
    return esd(pipe, concept, budget, seed, "unconditional", lr, strength)
