"""Whether a picture shows the concept, and whether it shows anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..adapter.sealed import load_sealed, save_sealed
from ..diffusion.concepts import name_of
from ..diffusion.pipeline import base_name
from ..diffusion.states import fingerprint
from ..evaluation.grid import split
from ..evaluation.intervals import wilson
from ..evaluation.proper import KINDS, SHARE, SURE, Proper, load_references, looks
from ..pictograms.oracle import Oracle, load_oracle
from ..pictograms.words import OBJECTS, STYLES, caption

PART = 48  # references that are drawn, and kept, together
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
    style, it is neither much flatter nor much rougher than the references, and its features are as close to a reference
    of the same name as 95 % of these are to each other.

    Args:
        concept: An object, a style ("sepia style"), as `evaluation.split` knows them.
        references: The base model's pictures of everything, twice from different seeds, and from others than those to
            be judged, (N, 3, H, W) in [0, 1]; None for those that come with it, of 10 sampler steps at guidance 3.
        share: Of the references that the closeness must let pass.
        sure: The least probability of the named object and of the named style.
    """

    def __init__(
        self, concept: str, references: Tensor | None, oracle: Oracle, share: float = SHARE, sure: float = SURE
    ):
        ((self.name, self.kind),) = split([concept]).items()
        self.oracle = oracle
        known = load_references() if references is None else looks(references, oracle)
        self.proper = Proper(known[self.kind], share, sure)

    def __call__(self, images: Tensor) -> Verdict:
        seen = looks(images, self.oracle)[self.kind]
        return Verdict(seen.named == KINDS[self.kind].index(self.name), self.proper(seen))


def pictograms_judge(base, concept: str, config, references=None, work: Path | None = None):
    """The judge of the embedded model; its references are drawn here where they are not given."""
    references = draw_references(base, config, work) if references is None else references
    return PictogramsJudge(name_of(concept), references, load_oracle())


def draw_references(base, config, work: Path | None = None) -> torch.Tensor:
    """The base model's pictures of all objects in all styles, two of each, (N, 3, H, W) in [0, 1].

    Args:
        work: A folder that keeps what is drawn, part by part, for a run that goes on.
    """
    prompts = [caption(o, s) for o in OBJECTS for s in STYLES] * 2
    key = fingerprint(model=base_name(base.pipe), steps=config.steps, guidance=config.guidance, prompts=prompts)
    parts = []
    for start in range(0, len(prompts), PART):
        file = work and work / f"references-{start:04d}.safetensors"
        part = file and kept_pictures(file, key)
        if part is None:
            own = prompts[start : start + PART]
            seeds = [REFERENCE + start + k for k in range(len(own))]
            part = base.draw_prompts(own, seeds, config.steps, config.guidance)
            if file:
                save_sealed({"pictures": part}, file, {"key": key})
        parts.append(part)
    return torch.cat(parts)


def kept_pictures(file: Path, key: str) -> torch.Tensor | None:
    """Pictures that an interrupted run drew; None where there are none, damaged ones, or others."""
    try:
        tensors, facts = load_sealed(file)
    except ValueError:
        return None
    return tensors["pictures"] if facts.get("key") == key else None
