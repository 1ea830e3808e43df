"""How far pictures moved: the mean absolute pixel difference of pairs drawn from the same prompt and seed."""

from __future__ import annotations

from torch import Tensor

from .mean import MeanOver


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise ValueError, saying what was received, unless images are floats (B, 3, H, W) in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"{name}: expected floats (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):  # written so that NaN fails, too
        raise ValueError(f"{name}: expected values in [0, 1], got {images.min().item():g}..{images.max().item():g}")


def _picture_drift_update(base: Tensor, other: Tensor) -> Tensor:
    """The mean |base - other| of each pair, fp64 (B,)."""
    check_images(base, "base")
    check_images(other, "other")
    if base.shape != other.shape:
        raise ValueError(f"expected pairs of one shape, got base {tuple(base.shape)} and other {tuple(other.shape)}")
    return (base.double() - other.double()).abs().mean((1, 2, 3))


class PictureDrift(MeanOver):
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

    higher_is_better = False

    def update(self, base: Tensor, other: Tensor) -> None:
        """Add a batch of pairs, (B, 3, H, W) each."""
        self.add(_picture_drift_update(base, other))
