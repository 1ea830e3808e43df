"""SSD: selective synaptic dampening, a closed form without training.

Foster et al., AAAI 2024, arXiv 2308.07707: where the importance I_f for the forget set exceeds
alpha times the importance I_D for all data, a weight is multiplied by min(lambda I_D / I_f, 1). Needs importances over
the whole training set, so the remaining data too.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import ConcatDataset

from .common import Peer, Task, fisher


@torch.no_grad()
def unlearn(task: Task, alpha: float = 10.0, damping: float = 1.0) -> nn.Module:
    """Dampens the weights that matter more for the forget set; `damping` is the paper's lambda."""
    model, whole = task.model, ConcatDataset([task.forget, task.retain])
    with torch.enable_grad():
        importance = zip(fisher(model, task.forget), fisher(model, whole))
    for p, (I_f, I_D) in zip(model.parameters(), importance):
        factor = (damping * I_D / I_f).clamp(max=1)
        p.copy_(torch.where(I_f > alpha * I_D, p * factor, p))
    return model


PEER = Peer(
    "SSD",
    unlearn,
    "arXiv 2308.07707",
    "the remaining data, for importances over the whole training set",
    grid=tuple({"alpha": alpha} for alpha in (2.0, 5.0, 10.0, 25.0)),
)
