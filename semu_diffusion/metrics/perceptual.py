"""Perceptual distance of paired pictures (LPIPS). Needs the extra `lpips`, or a distance of one's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .drift import check_images
from .mean import MeanOver


def load_lpips(net: str = "alex") -> Callable[[Tensor, Tensor], Tensor]:
    """The `lpips` package's distance of images (B, 3, H, W) in [-1, 1]; ValueError where it cannot be used."""
    try:
        import lpips

        return lpips.LPIPS(net=net, verbose=False).eval().requires_grad_(False)
    except (ImportError, RuntimeError, OSError) as error:
        raise ValueError(
            f"LPIPS is not available ({str(error).splitlines()[0]}): pip install 'semu-diffusion[lpips]'"
        ) from None


@torch.no_grad()
def _lpips_update(base: Tensor, other: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The distance of each pair, fp64 (B,). The network wants [-1, 1]; the images come in [0, 1] and are checked."""
    check_images(base, "base")
    check_images(other, "other")
    if base.shape != other.shape:
        raise ValueError(f"expected pairs of one shape, got base {tuple(base.shape)} and other {tuple(other.shape)}")
    return distance(2 * base.float() - 1, 2 * other.float() - 1).reshape(len(base), -1).mean(1).double()


class PerceptualDistance(MeanOver):
    """Mean LPIPS of paired pictures: 0 for equal ones.

    `update` takes base and other, floats (B, 3, H, W) in [0, 1] of the same shape, row i of both being one pair;
    another type or range is an error, never a silent cast. `compute` returns an fp64 scalar, NaN before any pair.
    Source: Zhang et al. 2018, arXiv 1801.03924; ESD reports it on erased and on other artists.

    Args:
        distance: of two batches in [-1, 1], one number per pair; default: `lpips.LPIPS(net="alex")`.

    Raises:
        ValueError: the package is missing; from `update`, for other shapes, types or ranges.
    """

    higher_is_better = False

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.distance = distance or load_lpips()

    def update(self, base: Tensor, other: Tensor) -> None:
        """Add a batch of pairs, (B, 3, H, W) each."""
        self.add(_lpips_update(base, other, self.distance))
