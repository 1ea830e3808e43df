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

from .common import Budget, Peer, count_batches, descend, forgotten_enough, logits, shuffled


def unlearn(
    model: nn.Module,
    forget: Dataset,
    retain: Dataset | None,
    budget: Budget,
    seed: int,
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
    generator = torch.Generator().manual_seed(seed)
    data = forget if retain is None else mixed(forget, retain)
    classes, labels = predict(model, first(forget)).shape[1], labels_of(forget)
    kept = labels_of(data)[len(forget) :]

    def losses(epoch: int) -> Iterator[Tensor]:
        drawn = torch.cat([random_labels(labels, classes, generator), kept])
        for x, y, _ in shuffled(data, budget, generator, drawn):
            yield F.cross_entropy(logits(model, x), y)

    until = forgotten_enough(model, forget, budget, seed) if stop else None
    epochs, steps = budget.passes(len(data), spent), count_batches(data, budget)
    return descend(model, losses, epochs, steps, lr, batchnorm=batchnorm, after=after, until=until)


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
