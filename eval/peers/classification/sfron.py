"""SFR-on: forgetting steps that the geometry of the remaining data restrains, between steps on the remaining data.

Huang et al., "Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement", NeurIPS 2024, arXiv
2409.19732. Every fifth step climbs the loss of the forget set, each example weighted by 1 / loss^0.5 (what is forgotten
already counts less), inside the mask where the diagonal Fisher information of the forget set is at least that of the
remaining data; every step then descends the loss of the remaining data. Needs the remaining data. As in the released
code the slow weights follow the fast ones at once, and the gradient of a forgetting step is clipped to a norm of 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from .common import Peer, Task, descend, fisher

EVERY = 5  # steps on the remaining data per forgetting step
CLIP = 7.0


def remain_mask(model: nn.Module, forget: Dataset, retain: Dataset, threshold: float = 1.0) -> list[Tensor]:
    """True where the forget set's Fisher information is at least `threshold` times that of the remaining data."""
    return [F_f >= threshold * F_r for F_f, F_r in zip(fisher(model, forget), fisher(model, retain))]


def unlearn(task: Task, lr: float = 0.01, strength: float = 25.0, power: float = 0.5) -> nn.Module:
    """Alternates; `strength` of the forgetting steps fades out along a cosine, `power` is the paper's lambda."""
    model, forget, retain, forgetting, done = task.model, task.forget, task.retain, False, 0
    mask, spent = remain_mask(model, forget, retain), len(forget) + len(retain)
    epochs, steps = task.budget.passes(len(retain) + len(retain) // EVERY, spent), task.steps(retain)
    stream = endless(task, forget)

    def losses(epoch: int) -> Iterator[Tensor]:
        nonlocal forgetting, done
        for x, y, _ in task.shuffled(retain):
            if done % EVERY == 0:
                forgetting = True
                fade = (1 + math.cos(math.pi * done / (epochs * steps))) / 2
                yield -strength * fade * adaptive(*next(stream))
            forgetting, done = False, done + 1
            yield F.cross_entropy(task.logits(x), y)

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(task.logits(x), y, reduction="none")  # (B,)
        weights = each.detach().clamp_min(1e-3) ** -power
        return (weights / weights.sum() * each).sum()

    def restrain() -> None:
        if forgetting:
            for p, keep in zip(model.parameters(), mask):
                p.grad *= keep
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)

    return descend(model, losses, epochs, steps + math.ceil(steps / EVERY), lr, edit=restrain)


def endless(task: Task, data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one shuffled pass after the other."""
    while True:
        for x, y, _ in task.shuffled(data):
            yield x, y


PEER = Peer(
    "SFR-on",
    unlearn,
    "arXiv 2409.19732",
    "the remaining data",
    grid=tuple({"lr": lr, "strength": strength} for lr in (0.003, 0.01) for strength in (1.0, 10.0)),
)
