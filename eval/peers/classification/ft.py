"""FT: fine-tuning on the remaining data, and hoping that the rest is forgotten.

Warnecke et al., "Machine Unlearning of Features and Labels", arXiv 2108.11577; the baseline of SalUn's tables.
Needs the remaining data.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from .common import Peer, Task


def unlearn(task: Task, lr: float = 0.01) -> nn.Module:
    """Minimises the cross-entropy of the remaining data."""
    return task.descend_on(task.retain, lambda x, y: F.cross_entropy(task.logits(x), y), lr)


PEER = Peer(
    "FT",
    unlearn,
    "arXiv 2108.11577",
    "the remaining data",
    grid=tuple({"lr": lr} for lr in (0.003, 0.01, 0.03, 0.05)),
)
