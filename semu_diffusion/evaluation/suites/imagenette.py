"""Imagenette: ten classes that a ResNet-50 names, as ESD has it (arXiv 2303.07345)."""

from __future__ import annotations

from functools import partial

from ..judges import IMAGENET
from ..prompts import imagenette
from . import custom
from .suite import Suite

SUITE = Suite(
    name="imagenette",
    figures=custom.OF_CLASSES,
    row=custom.row,
    judges=partial(custom.judges, default=IMAGENET),
    prompts=lambda config, pipe: imagenette(config.seeds),
)
