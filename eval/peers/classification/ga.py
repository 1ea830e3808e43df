"""GA: gradient ascent on the forget set.

Thudi et al., "Unrolling SGD", arXiv 2109.13398; Graves et al., arXiv 2010.10981. Needs the forget set only. The papers
stop after a few epochs; here the stop rule that SEMU uses ends it, as it diverges otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from .common import Budget, Peer, count_batches, descend, forgotten_enough, logits, shuffled


def unlearn(
    model: nn.Module,
    forget: Dataset,
    retain: Dataset | None,
    budget: Budget,
    seed: int,
    lr: float = 1e-3,
    batchnorm: str = "train",
) -> nn.Module:
    """Maximises the cross-entropy of the forget set."""
    generator = torch.Generator().manual_seed(seed)

    def losses(epoch: int):
        for x, y, _ in shuffled(forget, budget, generator):
            yield -F.cross_entropy(logits(model, x), y)

    until = forgotten_enough(model, forget, budget, seed)
    epochs, steps = budget.passes(len(forget)), count_batches(forget, budget)
    return descend(model, losses, epochs, steps, lr, batchnorm=batchnorm, until=until)


GRID = tuple({"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2))
PEER = Peer("GA", unlearn, "arXiv 2109.13398", "the forget set", grid=GRID, alone=GRID)
