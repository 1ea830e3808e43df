"""Kernel distance between two sets of pictures, in the features of a network of one's own."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from .fid import Features


def _kid_compute(real: Tensor, fake: Tensor, degree: int = 3) -> Tensor:
    """Unbiased squared MMD of features (N, d) and (M, d) under k(x, y) = (x . y / d + 1)^degree, fp64 scalar.

    Over all pairs at once instead of over random subsets, so that it is the same each time. It may be a little
    negative where the sets are alike. Source: Binkowski et al. 2018, arXiv 1801.01401, equation 4.
    """
    if min(len(real), len(fake)) < 2 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"KID: expected two or more of each, got {tuple(real.shape)} real, {tuple(fake.shape)} fake")
    x, y = real.double(), fake.double()
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** degree  # noqa: E731
    xx, yy = kernel(x, x), kernel(y, y)  # (N, N), (M, M)
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return within[0] + within[1] - 2 * kernel(x, y).mean()


class KernelDistance(Metric):
    """KID over a network's own features: 0 in expectation for equal distributions, without FID's bias in small samples.

    `update(images, real=...)` takes floats (B, 3, H, W) in [0, 1], unresized; another type or range is an error.
    `compute` returns an fp64 scalar (some print 1000 times it). All features are kept: 8 bytes x d per picture.

    Args:
        features: network with `num_features`, as `feature_fid` takes it; in eval mode, and shared.

    Raises:
        TypeError: without `num_features`.
        ValueError: from `update`, for images of another shape, type or range; from `compute`, under 2 of each.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, features: nn.Module, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(getattr(features, "num_features", None), int):
            raise TypeError(
                f"features: expected a module with an integer `num_features`, got {type(features).__name__}"
            )
        self.features = Features(features)
        for state in ("real", "fake"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, images: Tensor, real: bool) -> None:
        """Add a batch of images (B, 3, H, W) to the real or the fake ones."""
        (self.real if real else self.fake).append(self.features(images))

    def compute(self) -> Tensor:
        """The squared distance, a scalar."""
        if not len(self.real) or not len(self.fake):
            raise ValueError("KID: no pictures on one of the sides")
        return _kid_compute(dim_zero_cat(self.real), dim_zero_cat(self.fake))
