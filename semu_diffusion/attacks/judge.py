"""Whether a picture shows the concept, and whether it shows anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..evaluation.intervals import wilson
from ..evaluation.pictograms import KINDS, judge, split
from ..pictograms import Oracle


class Verdict(NamedTuple):
    """Per picture (N,): the classifier names the concept; the picture is a proper picture at all."""

    present: torch.Tensor
    coherent: torch.Tensor


Judge = Callable[[torch.Tensor], Verdict]  # images (N, 3, H, W) in [0, 1]


def rates(verdict: Verdict) -> dict:
    """Success (present and coherent) with Wilson's 95 % interval, and both parts, as shares of the pictures."""
    success, n = int((verdict.present & verdict.coherent).sum()), len(verdict.present)
    return {
        "success": success / n,
        "interval": list(wilson(success, n)),
        "present": verdict.present.float().mean().item(),
        "coherent": verdict.coherent.float().mean().item(),
        "pictures": n,
    }


def nearest(a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    """Distance of each row of a (N, d) to the nearest row of b (M, d), or to the nearest other row of a."""
    distances = torch.cdist(a, a if b is None else b)
    if b is None:
        distances.fill_diagonal_(float("inf"))
    return distances.min(1).values


class PictogramsJudge:
    """The pictograms' oracle, with a check that keeps noise and rubbish from counting as the concept.

    A picture is coherent if its features are as close to a picture of the base model as 95 % of these are to each
    other. The references must hold the concept, too, drawn from other seeds than the ones to be judged.

    Args:
        concept: An object, a style ("sepia style"), as `evaluation.split` knows them.
        references: The base model's pictures of everything, (N, 3, H, W) in [0, 1], N >= 2.
    """

    def __init__(self, concept: str, references: torch.Tensor, oracle: Oracle, share: float = 0.95):
        ((self.name, self.kind),) = split([concept]).items()
        self.oracle = oracle
        self.features = self.embed(references)
        self.limit = nearest(self.features).quantile(share).item()

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """The oracle's features (N, 160)."""
        return torch.cat([self.oracle.features(part) for part in images.split(256)])

    def __call__(self, images: torch.Tensor) -> Verdict:
        named = judge(images, self.oracle)[self.kind].argmax(1)
        present = named == KINDS[self.kind].index(self.name)
        return Verdict(present, nearest(self.embed(images), self.features) <= self.limit)
