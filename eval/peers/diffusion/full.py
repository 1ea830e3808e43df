"""Full fine-tuning with this package's objective and keep loss: what its small basis is compared with."""

from __future__ import annotations

import torch

from .work import Budget, Edited, Work, size, update


def full(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "shared", lr: float = 1e-4, strength: float = 0.5,
    keep_weight: float = 1.0,
) -> Edited:  # fmt: skip
    """Redirects the concept to its anchor and `strength` of the way beyond, in all weights."""
    work = Work(pipe, concept, budget, seed, prompts)
    parameters, n = work.parameters("all"), budget.batch_size
    optimizer = torch.optim.Adam(parameters.values(), lr, betas=(0.9, 0.99))
    for _ in work.rounds(2 * n):
        index = work.pick(work.forget, n)
        loss = work.distance(index, work.targets(index, "redirect", strength))
        update(optimizer, loss + keep_weight * work.drift(work.pick_kept(n)))
    return work.done(size(parameters))
