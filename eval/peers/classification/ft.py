"""FT: fine-tuning on the remaining data, and hoping that the rest is forgotten.

Warnecke et al., "Machine Unlearning of Features and Labels", arXiv 2108.11577; the baseline of SalUn's tables.
Needs the remaining data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from .common import Budget, Peer, count_batches, descend, logits, shuffled


def unlearn(
    model: nn.Module, forget: Dataset, retain: Dataset, budget: Budget, seed: int, lr: float = 0.01
) -> nn.Module:
    """Minimises the cross-entropy of the remaining data."""
    generator = torch.Generator().manual_seed(seed)

    def losses(epoch: int):
        for x, y, _ in shuffled(retain, budget, generator):
            yield F.cross_entropy(logits(model, x), y)

    return descend(model, losses, budget.passes(len(retain)), count_batches(retain, budget), lr)


PEER = Peer(
    "FT",
    unlearn,
    "arXiv 2108.11577",
    "the remaining data",
    grid=tuple({"lr": lr} for lr in (0.003, 0.01, 0.03, 0.05)),
)
