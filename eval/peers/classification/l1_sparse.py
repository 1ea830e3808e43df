"""l1-sparse: fine-tuning on the remaining data with an l1 penalty that fades out.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv 2304.04934, with the linearly
decreasing penalty. Needs the remaining data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from .common import Budget, Peer, count_batches, descend, logits, shuffled


def unlearn(
    model: nn.Module, forget: Dataset, retain: Dataset, budget: Budget, seed: int, lr: float = 0.01, alpha: float = 5e-4
) -> nn.Module:
    """Minimises CE(retain) + alpha (1 - t / T) ||theta||_1 over the steps t = 0..T - 1."""
    generator = torch.Generator().manual_seed(seed)
    epochs, steps, done = budget.passes(len(retain)), count_batches(retain, budget), 0

    def losses(epoch: int):
        nonlocal done
        for x, y, _ in shuffled(retain, budget, generator):
            size = sum(p.abs().sum() for p in model.parameters()).cpu()
            yield F.cross_entropy(logits(model, x), y) + alpha * (1 - done / (epochs * steps)) * size
            done += 1

    return descend(model, losses, epochs, steps, lr)


PEER = Peer(
    "l1-sparse",
    unlearn,
    "arXiv 2304.04934",
    "the remaining data",
    grid=tuple({"lr": lr, "alpha": alpha} for lr in (0.01, 0.03) for alpha in (1e-4, 5e-4)),
)
