"""Kinds of pipelines that can be erased from, one file each."""

from .base import Conditions, Diffusion, Family, Flow, join, moved, select
from .class_conditional import ClassConditional
from .flux import Flux
from .pixart import PixArt
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL
from .stable_diffusion import StableDiffusion

FAMILIES: tuple[type[Family], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    PixArt,
    ClassConditional,
)
__all__ = ["FAMILIES", "Conditions", "Diffusion", "Family", "Flow", "family_of", "join", "moved", "select"]
__all__ += [family.__name__ for family in FAMILIES]


def family_of(pipe) -> Family:
    """The family of a pipeline.

    Raises:
        ValueError: an unknown one (the message lists the known), or one whose schedule or model does not fit.
    """
    for family in FAMILIES:
        if family.matches(pipe):
            return family(pipe)
    known = "; ".join(f.title for f in FAMILIES)
    raise ValueError(f"{type(pipe).__name__} is not a family that can be erased from; known: {known}")
