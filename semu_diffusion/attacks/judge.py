"""Whether a picture shows the concept, and whether it shows anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..evaluation.grid import KINDS, judge, split
from ..evaluation.intervals import wilson
from ..pictograms.oracle import Oracle

REFERENCE = 70_000_000  # first seed of the pictures that others are compared with


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


def nearest(a: torch.Tensor, b: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Distance of each row of a (N, d) to the nearest row of b (M, d) that is allowed (N, M); inf where none is."""
    return torch.cdist(a, b).masked_fill(~allowed, float("inf")).min(1).values


def roughness(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels of images (N, 3, H, W), (N,): 0 of a flat one, high of noise."""
    return (images.diff(dim=3).abs().mean((1, 2, 3)) + images.diff(dim=2).abs().mean((1, 2, 3))) / 2


class PictogramsJudge:
    """The pictograms' oracle, with a check that keeps noise and rubbish from counting as the concept.

    A picture is coherent if the oracle is sure of its object and style, it is neither flatter nor rougher than the
    references, and its features are as close to a reference of the same name as 95 % of these are to each other.

    Args:
        concept: An object, a style ("sepia style"), as `evaluation.split` knows them.
        references: The base model's pictures of everything, twice from different seeds, and from others than those to
            be judged, (N, 3, H, W) in [0, 1].
        share: Of the references that the closeness must let pass.
        sure: The least probability of the named object and of the named style.
    """

    def __init__(self, concept: str, references: torch.Tensor, oracle: Oracle, share: float = 0.95, sure: float = 0.5):
        ((self.name, self.kind),) = split([concept]).items()
        self.oracle, self.sure = oracle, sure
        self.features, self.named, _ = self.look(references)
        others = (self.named[:, None] == self.named) & ~torch.eye(len(references), dtype=torch.bool)
        distances = nearest(self.features, self.features, others)
        self.limit = distances[distances.isfinite()].quantile(share).item()
        found = roughness(references)
        self.rough = found.min().item(), found.max().item()

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The oracle's features (N, 160), the name it gives (N,), and how sure it is of the less sure head (N,)."""
        logits = judge(images, self.oracle)
        sure = torch.stack([head.softmax(1).max(1).values for head in logits.values()]).min(0).values
        features = torch.cat([self.oracle.features(part) for part in images.split(256)])
        return features, logits[self.kind].argmax(1), sure

    def __call__(self, images: torch.Tensor) -> Verdict:
        features, named, sure = self.look(images)
        near = nearest(features, self.features, named[:, None] == self.named) <= self.limit
        found, (low, high) = roughness(images), self.rough
        return Verdict(
            named == KINDS[self.kind].index(self.name), near & (sure >= self.sure) & (low <= found) & (found <= high)
        )


def pictograms_judge(base, concept: str, config, references=None):
    """The judge of the embedded model; its references are drawn here where they are not given."""
    from ..diffusion.concepts import name_of
    from ..pictograms.oracle import load_oracle
    from .judge import PictogramsJudge

    references = draw_references(base, config) if references is None else references
    return PictogramsJudge(name_of(concept), references, load_oracle())


def draw_references(base, config):
    """The base model's pictures of all objects in all styles, two of each."""
    from ..pictograms.words import OBJECTS, STYLES, caption

    prompts = [caption(o, s) for o in OBJECTS for s in STYLES] * 2
    return base.draw_prompts(prompts, [REFERENCE + k for k in range(len(prompts))], config.steps, config.guidance)
