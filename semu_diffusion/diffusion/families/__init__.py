"""Kinds of pipelines that can be erased from, one file each."""

from ..whole import check_whole
from .base import Conditions, Diffusion, Family, Flow, join, moved, select
from .class_conditional import ClassConditional
from .flux import Flux
from .pixart import PixArt
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL
from .stable_diffusion import StableDiffusion
from .text_encoder import TextEncoder

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


def takes(index: dict) -> bool:
    """Whether the pipeline that a `model_index.json` names is of a family."""
    import diffusers

    kind = getattr(diffusers, str(index["_class_name"]), None)
    by_class = isinstance(kind, type) and any(issubclass(kind, family.pipelines) for family in FAMILIES)
    return by_class or (index.get("unet") or [None])[-1] == "UNet2DModel"


def known_families() -> str:
    """The families, in words."""
    return "; ".join(family.title for family in FAMILIES)


def family_of(pipe, train: str = "denoiser") -> Family:
    """The family of a pipeline.

    Args:
        train: What shall carry the adapter, "denoiser" or "text_encoder".

    Raises:
        ValueError: an unknown one (the message lists the known), or one whose schedule or model does not fit.
    """
    check_whole(pipe)
    if train == "text_encoder":
        if not TextEncoder.matches(pipe):
            raise ValueError(f"only {TextEncoder.title} can be trained, not that of {type(pipe).__name__}")
        return TextEncoder(pipe)
    for family in FAMILIES:
        if family.matches(pipe):
            return family(pipe)
    raise ValueError(f"{type(pipe).__name__} is not a family that can be erased from; known: {known_families()}")
