"""Fréchet distance between two sets of pictures, in the features of a network of one's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from .drift import check_images


class Features(nn.Module):
    """A feature network as torchmetrics' FID wants it: images (B, 3, H, W) in [0, 1] -> fp64 (B, num_features).

    It runs in eval mode without gradients, on its own device, and its features return to the device of the images.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.num_features = int(network.num_features)
        self.eval()

    def train(self, mode: bool = True) -> Features:
        """Stay in eval mode: with BatchNorm in training, a picture's features would depend on its batch."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        weight = next(self.network.parameters(), images)
        features = getattr(self.network, "features", self.network)(images.to(weight))
        if features.shape != (len(images), self.num_features):
            raise ValueError(
                f"features: expected ({len(images)}, {self.num_features}), the network gave {tuple(features.shape)}"
            )
        return features.to(images.device).double()


def _fid_compute(real: Tensor, fake: Tensor) -> Tensor:
    """||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of features (N, d) and (M, d), fp64 scalar.

    With C1 = A^T A and C2 = B^T B, the root's trace is the sum of the singular values of A B^T. The eigenvalues of
    C1 C2 would do, too, but the zeros among them (fewer pictures than features) come out as rounding, and roots of
    rounding add up.
    """
    if min(len(real), len(fake)) < 2 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"FID: expected two or more of each, got {tuple(real.shape)} real, {tuple(fake.shape)} fake")
    real, fake = real.double(), fake.double()
    A, B = _covariance_factor(real), _covariance_factor(fake)
    root = torch.linalg.svdvals(A @ B.T).sum()
    return ((real.mean(0) - fake.mean(0)) ** 2).sum() + (A**2).sum() + (B**2).sum() - 2 * root


def _covariance_factor(features: Tensor) -> Tensor:
    """A with A^T A the covariance of features (N, d), (min(N, d), d)."""
    A = (features - features.mean(0)) / (len(features) - 1) ** 0.5  # (N, d)
    return torch.linalg.qr(A, mode="r").R if len(A) > A.shape[1] else A


def feature_fid(features: nn.Module, **kwargs) -> FrechetInceptionDistance:
    """torchmetrics' FID over a network's own features: ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in fp64.

    `update(images, real=...)` takes floats (B, 3, H, W) in [0, 1], unresized; `compute()` returns an fp64 scalar,
    0 for equal means and covariances. Its value depends on the number of pictures, so compare equal numbers only.
    The range is checked because [-1, 1] cast to uint8, as in a published evaluation, wraps to 0, 1 and 255 and gives
    tiny distances that mean nothing. Source: Heusel et al. 2017, arXiv 1706.08500.

    Args:
        features: network with `num_features`, called through `features.features(images)` if it has that, as the
            pictograms' oracle does, else directly. It is put in eval mode and shared, not copied.
        kwargs: more for `FrechetInceptionDistance`, such as `reset_real_features=False`.

    Raises:
        TypeError: without `num_features`.
        ValueError: from `update`, for images of another shape, type or range, or features of another size.
    """
    if not isinstance(getattr(features, "num_features", None), int):
        raise TypeError(f"features: expected a module with an integer `num_features`, got {type(features).__name__}")
    return FrechetInceptionDistance(feature=Features(features), normalize=True, **kwargs)


class InceptionDistance(FrechetInceptionDistance):
    """FID over InceptionV3's 2048 features, the one that papers print: torchmetrics' own, with the range checked.

    `update(images, real=...)` takes floats (B, 3, H, W) in [0, 1]; they are resized to 299 x 299 as torch-fidelity
    does. Needs the extra `fid`, and its weights from the network once.

    Raises:
        ValueError: torch-fidelity is missing; from `update`, for images of another shape, type or range.
    """

    def __init__(self, **kwargs):
        try:
            super().__init__(feature=2048, normalize=True, **kwargs)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{str(error).splitlines()[0]}; for Inception: pip install 'semu-diffusion[fid]'"
            ) from None

    def update(self, images: Tensor, real: bool) -> None:
        """Add a batch of images (B, 3, H, W) to the real or the fake ones."""
        check_images(images)
        super().update(images, real)
