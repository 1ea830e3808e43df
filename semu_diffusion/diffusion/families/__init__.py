"""Kinds of pipelines that can be erased from, one file each."""

from ..pipeline import base_name, is_embedded
from ..whole import check_whole
from .aura_flow import AuraFlow
from .base import Conditions, Family, beside, guided, join, moved, repeated, select
from .chroma import Chroma
from .class_conditional import ClassConditional
from .flux import Flux
from .flux2 import Flux2
from .hidream import HiDream
from .inpainting import Inpainting, InpaintingXL
from .latent_consistency import LatentConsistency
from .lumina2 import Lumina2
from .pixart import PixArt
from .qwen_image import QwenImage
from .refiner import Refiner
from .sampling import Own, Sampler, Spread, own_sampler
from .sana import Sana
from .schedules import Diffusion, Flow
from .sd3 import StableDiffusion3
from .stable_diffusion import StableDiffusion
from .stable_diffusion_xl import StableDiffusionXL
from .text_encoder import TextEncoder
from .wan import Wan
from .z_image import ZImage

FAMILIES: tuple[type[Family], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    Refiner,
    LatentConsistency,
    Inpainting,
    InpaintingXL,
    StableDiffusion3,
    Flux,
    ZImage,
    QwenImage,
    Flux2,
    Chroma,
    Sana,
    Lumina2,
    AuraFlow,
    HiDream,
    Wan,
    PixArt,
    ClassConditional,
)
TESTED = ("0.42.1",)  # versions of diffusers with which all of them were run
__all__ = ["FAMILIES", "TESTED", "Conditions", "Diffusion", "Family", "Flow", "Own", "Sampler", "Spread", "beside"]
__all__ += ["drawing_defaults", "family_of", "guided", "join", "moved", "repeated", "sampler_of", "select", "unchecked"]
__all__ += [family.__name__ for family in FAMILIES]


def takes(index: dict) -> bool:
    """Whether the pipeline that a `model_index.json` names is of a family."""
    import diffusers

    kind = getattr(diffusers, str(index["_class_name"]), None)
    by_class = isinstance(kind, type) and any(family.has(kind) for family in FAMILIES)
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
        return checked(TextEncoder(pipe))
    found = unchecked(pipe)
    if found is None:
        raise ValueError(f"{type(pipe).__name__} is not a family that can be erased from; known: {known_families()}")
    return checked(found)


def unchecked(pipe) -> Family | None:
    """The family of a pipeline, to draw with whatever its schedule; None for an unknown one."""
    return next((family(pipe) for family in FAMILIES if family.matches(pipe)), None)


def sampler_of(pipe) -> Sampler:
    """The pipeline's own steps and guidance, also where it is of no family."""
    family = unchecked(pipe)
    return family.sampler if family else own_sampler(pipe)


def drawing_defaults(pipe) -> Sampler:
    """`sampler_of`; of the embedded model what its card says."""
    return Sampler(20, 3.0) if is_embedded(base_name(pipe)) else sampler_of(pipe)


def checked(family: Family) -> Family:
    """The family, once its schedule and model are known to fit."""
    family.check()
    return family
