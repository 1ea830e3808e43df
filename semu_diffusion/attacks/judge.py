"""Whether a picture shows the concept, and whether it shows anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..evaluation.grid import split
from ..evaluation.intervals import wilson
from ..evaluation.proper import KINDS, SHARE, SURE, Proper, looks
from ..pictograms.oracle import Oracle

REFERENCE = 70_000_000  # first seed of the pictures that others are compared with


class Verdict(NamedTuple):
    """Per picture (N,): the classifier names the concept; the picture is a proper picture at all."""

    present: Tensor
    coherent: Tensor


Judge = Callable[[Tensor], Verdict]  # images (N, 3, H, W) in [0, 1]


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


class PictogramsJudge:
    """The pictograms' oracle, with a check that keeps noise and rubbish from counting as the concept.

    A picture is coherent if it is a proper one, as `evaluation.proper` has it: the oracle is sure of its object and
    style, it is neither flatter nor rougher than the references, and its features are as close to a reference of the
    same name as 95 % of these are to each other.

    Args:
        concept: An object, a style ("sepia style"), as `evaluation.split` knows them.
        references: The base model's pictures of everything, twice from different seeds, and from others than those to
            be judged, (N, 3, H, W) in [0, 1].
        share: Of the references that the closeness must let pass.
        sure: The least probability of the named object and of the named style.
    """

    def __init__(self, concept: str, references: Tensor, oracle: Oracle, share: float = SHARE, sure: float = SURE):
        ((self.name, self.kind),) = split([concept]).items()
        self.oracle = oracle
        self.proper = Proper(looks(references, oracle)[self.kind], share, sure)

    def __call__(self, images: Tensor) -> Verdict:
        seen = looks(images, self.oracle)[self.kind]
        return Verdict(seen.named == KINDS[self.kind].index(self.name), self.proper(seen))


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
