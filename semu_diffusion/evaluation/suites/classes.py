"""Classes: every class of a class-conditional model, named by a classifier."""

from __future__ import annotations

from functools import partial

from ...diffusion.families import family_of
from ..prompts import SEED, Shot
from . import custom
from .suite import Suite


def shots(config, pipe) -> list[Shot]:
    """`config.seeds` pictures of each class; of kept ones the first `config.limit` classes, where that is set.

    Raises:
        ValueError: a model that reads text, or no such class.
    """
    names, gone = family_with_classes(pipe).names, erased(config, pipe)
    kept = [name for name in names if name not in gone][: config.limit]
    chosen = [(k, name) for k, name in enumerate(names) if name in (*gone, *kept)]
    return [Shot(name, SEED + 1000 * k + i, name) for k, name in chosen for i in range(config.seeds)]


def family_with_classes(pipe):
    """The family of a class-conditional model. ValueError for one that reads text."""
    family = family_of(pipe)
    if family.reads_text:
        raise ValueError(f"the suite classes is for class-conditional models; {type(pipe).__name__} reads text")
    return family


def erased(config, pipe) -> list[str]:
    """The erased classes by name, also where they were given by number."""
    family = family_with_classes(pipe)
    return [family.names[family.label(concept)] for concept in config.concept]


SUITE = Suite(
    name="classes",
    figures=custom.OF_CLASSES,
    row=custom.row,
    judges=partial(custom.judges, default="cifar10"),
    prompts=shots,
    concepts=erased,
)
