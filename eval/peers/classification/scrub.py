"""SCRUB: away from the original on the forget set, towards it on the remaining data.

Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023, arXiv 2302.09880: while the first
`max_passes` last, a pass that maximises KL(original || model) on the forget set comes before each pass that minimises
gamma CE + alpha KL on the remaining data. Without the rewinding of SCRUB+R. Needs the remaining data.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from .common import Peer, Task, descend, logits

TEMPERATURE = 4.0


def distance(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """KL(teacher || student) of softened outputs (B, C), times temperature^2, mean over examples."""
    p, q = (teacher / temperature).log_softmax(1), (student / temperature).log_softmax(1)
    return F.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2


def unlearn(task: Task, lr: float = 5e-4, max_passes: int = 2, gamma: float = 0.99, alpha: float = 0.001) -> nn.Module:
    """Alternates max and min passes."""
    teacher = copy.deepcopy(task.model).eval().requires_grad_(False)
    epochs = task.budget.passes(len(task.retain), max_passes * len(task.forget))

    def losses(epoch: int) -> Iterator[Tensor]:
        if epoch < max_passes:
            for x, _, _ in task.shuffled(task.forget):
                yield -distance(task.logits(x), logits(teacher, x))
        for x, y, _ in task.shuffled(task.retain):
            found = task.logits(x)
            yield gamma * F.cross_entropy(found, y) + alpha * distance(found, logits(teacher, x))

    return descend(task.model, losses, epochs, task.steps(task.retain), lr)


PEER = Peer(
    "SCRUB",
    unlearn,
    "arXiv 2302.09880",
    "the remaining data",
    grid=tuple({"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2)),
)
