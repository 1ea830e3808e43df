"""Bad Teacher: the model learns the forget set from a teacher that knows nothing, the rest from the original.

Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023, arXiv 2205.08096: KL to a randomly
drawn model on the forget set, to the original on 30 % of the remaining data; Adam. Needs the remaining data.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from .common import Peer, Task, logits
from .retrain import reset
from .rl import mixed
from .scrub import distance


def unlearn(task: Task, lr: float = 1e-4, share: float = 0.3) -> nn.Module:
    """Distils from both teachers; `share` of the remaining data takes part."""
    model, forget, retain = task.model, task.forget, task.retain
    good, bad = (copy.deepcopy(model).eval().requires_grad_(False) for _ in range(2))
    reset(bad, task.seed)
    chosen = torch.randperm(len(retain), generator=task.generator)[: max(1, round(share * len(retain)))]
    data = mixed(forget, Subset(retain, chosen.tolist()))
    optimizer = torch.optim.Adam(model.parameters(), lr)
    model.train()
    for _ in range(task.budget.passes(len(data))):
        for x, _, index in task.shuffled(data):
            loss = distance(task.logits(x), taught(x, index < len(forget), good, bad), temperature=1.0)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()}; lower lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def taught(x: Tensor, forgotten: Tensor, good: nn.Module, bad: nn.Module) -> Tensor:
    """The bad teacher's logits (B, C) where `forgotten` (B,), else the good one's."""
    return torch.where(forgotten[:, None], logits(bad, x), logits(good, x))


PEER = Peer(
    "Bad Teacher",
    unlearn,
    "arXiv 2205.08096",
    "the remaining data",
    grid=tuple({"lr": lr} for lr in (1e-4, 3e-4, 1e-3, 3e-3)),
)
