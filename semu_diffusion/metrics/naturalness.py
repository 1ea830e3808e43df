"""Whether a picture is a proper picture: as sure to a classifier, as close and as rough as a reference model's are.

A picture that lost its subject is a bland mix, which features put amid those of all others: its distance to the nearest
reference, the usual manifold (Kynkäänniemi et al. 2019, arXiv 1904.06991), calls it closer than a real one. What gives
it away is that no name fits it, so sureness comes first, and distances are taken among pictures of one name only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

SHARE = 0.95  # of the references that a limit lets pass
MARGIN = 1.5  # of roughness beyond the references', the roughest of which would else refuse half of its own kind
LEAST = 20  # references, below which a share of 95 % means nothing


def sureness(logits: Tensor) -> Tensor:
    """Probability of the name that a classifier gives, (N,), from logits (N, C); low for pictures of nothing.

    The maximum softmax probability of Hendrycks & Gimpel 2017, arXiv 1610.02136, equation 1; for CLIP's cosines x 100
    that of Ming et al. 2022, arXiv 2211.13445, section 3.
    """
    return logits.softmax(1).max(1).values


def roughness(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of images (N, 3, H, W), (N,): 0 of a flat one, high of noise."""
    return (images.diff(dim=3).abs().mean((1, 2, 3)) + images.diff(dim=2).abs().mean((1, 2, 3))) / 2


def nearest(a: Tensor, b: Tensor, allowed: Tensor) -> Tensor:
    """Distance of each row of a (N, d) to the nearest row of b (M, d) that is allowed (N, M); inf where none is."""
    return torch.cdist(a, b).masked_fill(~allowed, float("inf")).min(1).values


def typical_distance(references: Tensor, names: Tensor, share: float = SHARE) -> float:
    """Distance to the nearest other one of the same name (M,) that a share of references (M, d) keeps; 0 of none."""
    others = (names[:, None] == names) & ~torch.eye(len(references), dtype=torch.bool, device=references.device)
    distances = nearest(references, references, others)
    finite = distances[distances.isfinite()]
    return finite.quantile(share).item() if len(finite) else 0.0


def typical_sureness(references: Tensor, share: float = SHARE) -> float:
    """The sureness that a share of references (M,) reaches."""
    return references.quantile(1 - share).item()


def typical_roughness(references: Tensor) -> tuple[float, float]:
    """The least and the most roughness of a picture, from those of references (M,): theirs with a margin.

    What is drawn may be of another kind than the references. Noise is not near: uniform noise has 1/3, the embedded
    model's references 0.006 to 0.05.
    """
    return references.min().item() / MARGIN, references.max().item() * MARGIN


def _naturalness_update(sure: Tensor, limit: float) -> Tensor:
    """Whether each picture (N,) is named as surely as the limit."""
    return sure >= limit


class Naturalness(Metric):
    """Share of pictures that a classifier is as sure of as of 95 % of a reference model's pictures.

    `update` takes logits, floats (B, C), and whether they are those of reference pictures, as torchmetrics' FID has it.
    `compute` returns an fp64 scalar in [0, 1], NaN without any picture or under 20 references. Equal distributions give
    0.95. The classifier may be CLIP with a list of names; what none of them fits counts as no proper picture.

    Args:
        share: of the references that the limit must let pass.

    Raises:
        ValueError: from `update`, for logits of another shape, or NaN.

    >>> metric = Naturalness()
    >>> metric.update(torch.eye(2).repeat(10, 1) * 9, real=True)
    >>> metric.update(torch.tensor([[9.0, 0], [1, 1]]), real=False)
    >>> metric.compute()
    tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, share: float = SHARE, **kwargs):
        super().__init__(**kwargs)
        self.share = share
        for state in ("real", "fake"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, real: bool) -> None:
        """Add a batch of references (real) or of pictures to be judged, (B, C)."""
        if logits.ndim != 2 or not logits.is_floating_point() or logits.isnan().any():
            raise ValueError(f"logits: expected floats (B, C) without NaN, got {logits.dtype} {tuple(logits.shape)}")
        (self.real if real else self.fake).append(sureness(logits))

    def compute(self) -> Tensor:
        """The share, a scalar."""
        counts = [sum(map(len, found)) if isinstance(found, list) else len(found) for found in (self.real, self.fake)]
        if counts[0] < LEAST or not counts[1]:
            return torch.tensor(float("nan"), dtype=torch.float64)
        real, fake = dim_zero_cat(self.real), dim_zero_cat(self.fake)
        return _naturalness_update(fake, typical_sureness(real, self.share)).double().mean()
