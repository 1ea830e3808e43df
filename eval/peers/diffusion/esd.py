"""ESD: Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023 (arXiv 2303.07345)."""

from __future__ import annotations

import torch

from semu_diffusion.diffusion.erasers import eraser_of

from .work import Budget, Edited, Work, size, update

OWN = "name"


def esd_x(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = OWN, lr: float = 1e-4, strength: float = 1.0
) -> Edited:
    """ESD-x trains cross-attention, for concepts that the prompt names: `semu erase --method esd-x`."""
    n = 2 * budget.batch_size
    work = Work(pipe, concept, budget, seed, prompts, anchor="", draw=False, cost=n, method="esd-x", lr=lr,
                strength=strength, batch_size=n)  # fmt: skip
    return work.added(eraser_of("esd-x").edit(work))


def esd_u(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = OWN, lr: float = 3e-5, strength: float = 1.0
) -> Edited:
    """ESD-u trains everything else, biases too: for concepts that shall go whatever the prompt says."""
    work = Work(pipe, concept, budget, seed, prompts, anchor="", keep=False, steer="concept")
    parameters, n = work.parameters("unconditional"), 2 * budget.batch_size
    optimizer = torch.optim.Adam(parameters.values(), lr)
    for _ in work.rounds(n):
        index = work.pick(work.forget, n)
        update(optimizer, work.distance(index, work.targets(index, "negative", strength)))
    return work.done(size(parameters))
