"""SalUn: Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR 2024
(arXiv 2310.12508)."""

from __future__ import annotations

import torch

from .work import HALF, Budget, Edited, Work, size, update


def salun(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "image", lr: float = 1e-4,
    keep_weight: float = 0.5, share: float = 0.5,
) -> Edited:  # fmt: skip
    """Eq. 6: random labels for the concept's prompts, the keep loss on others, in the most salient weights only.

    The random label is another concept of the same kind (anchor "random"); what the paper keeps with pictures is kept
    with the model's own drawings here, as for all peers.

    Args:
        share: Of all weights, those with the largest gradient of the forgetting loss, which are trained.
    """
    work = Work(pipe, concept, budget, seed, prompts, anchor="random")
    parameters = work.parameters("all")
    masks = saliency(work, parameters, share)
    optimizer, n = torch.optim.Adam(parameters.values(), lr), budget.batch_size
    for _ in work.rounds(2 * n):
        index = work.pick(work.forget, n)
        loss = work.distance(index, work.targets(index)) + keep_weight * work.drift(work.pick_kept(n))
        update(optimizer, loss, masks)
    trained = sum(int(mask.sum()) for mask in masks)
    return work.done(trained, HALF * trained + size(parameters) // 8)  # one bit per weight says which


def saliency(work: Work, parameters: dict[str, torch.nn.Parameter], share: float, records: int = 256) -> list:
    """Eq. 4: 1 where |gradient of the forgetting loss| is among the top `share` over all weights together."""
    records = min(records, len(work.forget))
    chosen = work.pick(work.forget, records)
    for index in chosen.split(2 * work.budget.batch_size):
        (len(index) / records * work.distance(index, work.targets(index))).backward()
    size_of = {k: p.grad.abs() if p.grad is not None else torch.zeros_like(p) for k, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    ranked = torch.cat([g.flatten() for g in size_of.values()])
    limit = ranked.kthvalue(len(ranked) - max(1, round(share * len(ranked))) + 1).values
    return [(g >= limit).to(g.dtype) for g in size_of.values()]
