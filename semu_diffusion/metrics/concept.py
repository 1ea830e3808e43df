"""How often a classifier names the concept that a prompt asked for, overall and per concept."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def _check(logits: Tensor, labels: Tensor, num_classes: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != num_classes or not logits.is_floating_point():
        raise ValueError(f"logits: expected floats (B, {num_classes}), got {logits.dtype} {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels: expected int64 ({len(logits)},), got {labels.dtype} {tuple(labels.shape)}")
    if labels.numel() and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels: expected 0..{num_classes - 1}, got {labels.min().item()}..{labels.max().item()}")
    if logits.isnan().any():  # argmax would silently name the class of the first NaN
        raise ValueError(f"logits: {int(logits.isnan().any(1).sum())} of {len(logits)} rows hold NaN")


def _concept_accuracy_update(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Counts per class, int64 (C,) each: pictures named correctly, and all pictures of that class."""
    _check(logits, labels, num_classes)
    named = labels[logits.argmax(1) == labels]
    return torch.bincount(named, minlength=num_classes), torch.bincount(labels, minlength=num_classes)


def _concept_accuracy_compute(correct: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Shares in fp64; a class without pictures is 0 / 0 = NaN."""
    return {"accuracy": correct.sum().double() / total.sum(), "per_class": correct.double() / total}


class ConceptAccuracy(Metric):
    """Top-1 accuracy of a classifier's logits, overall (every picture counts the same) and per class.

    `update` takes logits, floats (B, C) without NaN, and labels, int64 (B,) in 0..C-1. `compute` returns
    {"accuracy": fp64 scalar, "per_class": fp64 (C,)} in [0, 1], NaN where there was no picture. On the pictures of
    an erased concept, 1 - accuracy is the unlearning accuracy (UA) of UnlearnCanvas, arXiv 2402.11846, section 4.

    Args:
        num_classes: how many classes C the logits have.

    Raises:
        ValueError: from `update`, for other shapes, types, ranges, or NaN; says what was received.

    >>> metric = ConceptAccuracy(num_classes=3)
    >>> metric.update(torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0]]), torch.tensor([0, 1, 1]))
    >>> metric.compute()["per_class"]
    tensor([1.0000, 0.5000,    nan], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes: expected 1 or more, got {num_classes}")
        self.num_classes = num_classes
        for state in ("correct", "total"):
            self.add_state(state, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, C), labels (B,)."""
        correct, total = _concept_accuracy_update(logits, labels, self.num_classes)
        self.correct += correct
        self.total += total

    def compute(self) -> dict[str, Tensor]:
        """{"accuracy": scalar, "per_class": (C,)}."""
        return _concept_accuracy_compute(self.correct, self.total)
