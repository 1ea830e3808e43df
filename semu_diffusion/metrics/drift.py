"""How far pictures moved: the mean absolute pixel difference of pairs drawn from the same prompt and seed."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise ValueError, saying what was received, unless images are floats (B, 3, H, W) in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"{name}: expected floats (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):  # written so that NaN fails, too
        raise ValueError(f"{name}: expected values in [0, 1], got {images.min().item():g}..{images.max().item():g}")


def _picture_drift_update(base: Tensor, other: Tensor) -> tuple[Tensor, int]:
    """Sum over the batch of each pair's mean |base - other|, fp64 scalar, and the number of pairs."""
    check_images(base, "base")
    check_images(other, "other")
    if base.shape != other.shape:
        raise ValueError(f"expected pairs of one shape, got base {tuple(base.shape)} and other {tuple(other.shape)}")
    return (base.double() - other.double()).abs().mean((1, 2, 3)).sum(), len(base)


def _picture_drift_compute(total: Tensor, count: Tensor) -> Tensor:
    """Mean over pairs, fp64 scalar."""
    return total / count


class PictureDrift(Metric):
    """Mean absolute pixel difference between paired pictures, mean over pairs.

    `update` takes base and other, floats (B, 3, H, W) in [0, 1] of the same shape, row i of both being one pair.
    `compute` returns an fp64 scalar in [0, 1]: 0 for identical pictures; NaN before any pair. It needs no network, so
    it also sees changes that a feature extractor ignores.

    Raises:
        ValueError: from `update`, for other shapes, types, or ranges; says what was received.

    >>> metric = PictureDrift()
    >>> metric.update(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.25))
    >>> metric.compute()
    tensor(0.2500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, base: Tensor, other: Tensor) -> None:
        """Add a batch of pairs, (B, 3, H, W) each."""
        total, count = _picture_drift_update(base, other)
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """The drift, a scalar."""
        return _picture_drift_compute(self.total, self.count)
