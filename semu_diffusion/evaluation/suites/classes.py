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
    names, gone = classes_of(pipe), erased(config, pipe)
    kept = [name for name in names if name not in gone][: config.limit]
    chosen = [(k, name) for k, name in enumerate(names) if name in (*gone, *kept)]
    return [Shot(name, SEED + 1000 * k + i, name) for k, name in chosen for i in range(config.seeds)]


def classes_of(pipe) -> list[str]:
    """The names of a class-conditional model's classes, or their numbers. ValueError for one that reads text."""
    family = family_of(pipe)
    if family.reads_text:
        raise ValueError(f"the suite classes is for class-conditional models; {type(pipe).__name__} reads text")
    return family.names


def erased(config, pipe) -> list[str]:
    """The erased classes by name, also where they were given by number."""
    return [classes_of(pipe)[family_of(pipe).label(concept)] for concept in config.concept]


SUITE = Suite(
    name="classes",
    figures=[
        ("UA", "% of forgotten pictures in which the class is no longer recognised"),
        ("IRA", "% of the other classes recognised"),
    ],
    row=custom.row,
    judges=partial(custom.judges, default="cifar10"),
    prompts=shots,
    concepts=erased,
)
