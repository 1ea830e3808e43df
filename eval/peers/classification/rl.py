"""RL: random labels for the forget set, true labels for the remaining data.

Golatkar et al., "Eternal Sunshine of the Spotless Net", arXiv 1911.04933; Graves et al., arXiv 2010.10981. Needs the
forget set; the remaining data where there is any. The labels are drawn among the other classes, anew in each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from semu_diffusion.classification import Examples, predict
from semu_diffusion.classification.data import batches, labels_of
from semu_diffusion.classification.losses import random_labels

from .common import Peer, Task, descend, forgotten_enough


def unlearn(
    task: Task,
    lr: float = 0.01,
    batchnorm: str = "train",
    stop: bool = True,
    spent: int = 0,
    after: Callable[[], None] | None = None,
) -> nn.Module:
    """Minimises the cross-entropy of the mixed data; `stop` ends it by the rule that SEMU uses.

    Args:
        spent: Examples of the budget that are used up already.
        after: Called after each step, for methods built on this one.
    """
    forget = task.forget
    data = forget if task.retain is None else mixed(forget, task.retain)
    classes, labels = predict(task.model, first(forget)).shape[1], labels_of(forget)
    kept = labels_of(data)[len(forget) :]

    def losses(epoch: int) -> Iterator[Tensor]:
        drawn = torch.cat([random_labels(labels, classes, task.generator), kept])
        for x, y, _ in task.shuffled(data, drawn):
            yield F.cross_entropy(task.logits(x), y)

    until = forgotten_enough(task) if stop else None
    epochs = task.budget.passes(len(data), spent)
    return descend(task.model, losses, epochs, task.steps(data), lr, batchnorm=batchnorm, after=after, until=until)


def mixed(forget: Dataset, retain: Dataset) -> Examples:
    """Both sets in memory, the forget set first."""
    parts = [part for part in batches(ConcatDataset([forget, retain]), 4096)]
    return Examples(*(torch.cat(tensors) for tensors in zip(*parts)))


def first(data: Dataset) -> Examples:
    """The first example as a data set."""
    return Examples(*next(batches(data, 1)))


GRID = (*({"lr": lr, "stop": False} for lr in (0.003, 0.01, 0.03)), {"lr": 0.01})
ALONE = tuple({"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2))
PEER = Peer("RL", unlearn, "arXiv 1911.04933", "the forget set", grid=GRID, alone=ALONE)
