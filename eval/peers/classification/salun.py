"""SalUn: random labels, but only the most salient weights may move.

Fan et al., ICLR 2024, arXiv 2310.12508: the mask keeps the largest |gradient of the forgetting loss at the original|
over all parameters, half of them by default; then RL. Needs the forget set; the remaining
data where there is any. Weights outside the mask are put back after each step, or momentum and weight decay would
move them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from . import rl
from .common import Peer, Task, gradient


def saliency_mask(model: nn.Module, forget: Dataset, share: float, batch_size: int = 64) -> list[Tensor]:
    """For each parameter True where its gradient is among the largest `share` of all."""
    grads = [g.abs() for g in gradient(model, forget, batch_size)]
    values = torch.cat([g.flatten() for g in grads])
    keep = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    keep[values.topk(round(share * len(values))).indices] = True
    return [part.view_as(g) for part, g in zip(keep.split([g.numel() for g in grads]), grads)]


def unlearn(task: Task, share: float = 0.5, **hyper) -> nn.Module:
    """RL within the mask; `hyper` are those of RL."""
    mask = saliency_mask(task.model, task.forget, share, task.budget.batch_size)
    start = [p.detach().clone() for p in task.model.parameters()]

    @torch.no_grad()
    def put_back() -> None:
        for p, theta0, keep in zip(task.model.parameters(), start, mask):
            p.copy_(torch.where(keep, p, theta0))

    return rl.unlearn(task, spent=len(task.forget), after=put_back, **hyper)


PEER = Peer("SalUn", unlearn, "arXiv 2310.12508", "the forget set", grid=rl.GRID, alone=rl.ALONE)
