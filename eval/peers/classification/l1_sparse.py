"""l1-sparse: fine-tuning on the remaining data with an l1 penalty that fades out.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv 2304.04934, with the linearly
decreasing penalty. Needs the remaining data.
"""

from __future__ import annotations

from itertools import count

import torch.nn.functional as F
from torch import Tensor, nn

from .common import Peer, Task


def unlearn(task: Task, lr: float = 0.01, alpha: float = 5e-4) -> nn.Module:
    """Minimises CE(retain) + alpha (1 - t / T) ||theta||_1 over the steps t = 0..T - 1."""
    T, t = task.budget.passes(len(task.retain)) * task.steps(task.retain), count()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        size = sum(p.abs().sum() for p in task.model.parameters()).cpu()
        return F.cross_entropy(task.logits(x), y) + alpha * (1 - next(t) / T) * size

    return task.descend_on(task.retain, loss, lr)


PEER = Peer(
    "l1-sparse",
    unlearn,
    "arXiv 2304.04934",
    "the remaining data",
    grid=tuple({"lr": lr, "alpha": alpha} for lr in (0.01, 0.03) for alpha in (1e-4, 5e-4)),
)
