"""Erasers by name: those of this package, and those that other packages offer.

    [project.entry-points."semu_diffusion.erasers"]
    mine = "my_package:MINE"                        # an `Eraser`

Nothing is imported before it is asked for by name.
"""

from __future__ import annotations

import importlib.metadata
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .task import Task

OWN = "semu"
GROUP = "semu_diffusion.erasers"
HERE = "semu_diffusion.diffusion.erasers"
BUILT_IN = {
    "uce": f"{HERE}.uce:UCE",
    "esd-x": f"{HERE}.esd:ESD_X",
    "concept-ablation": f"{HERE}.concept_ablation:CONCEPT_ABLATION",
}


@dataclass(frozen=True)
class Eraser:
    """A way to erase that is not SEMU.

    Args:
        title: What it is called in cards, headers and tables.
        paper: Where it is from, e.g. "arXiv 2308.14761".
        edit: Gets a `Task` and returns what it adds to the weight of each layer, by name: D (m, n), a convolution's
            kernel as (out, in * kh * kw). It leaves the model as it was. ValueError for what it cannot do.
        families: Class names of the families in `diffusion.families` that it fits.
        takes: Fields of `EraseConfig` that it reads, besides those that say what to forget.
        defaults: Its own choices for fields that are None unless given.
    """

    title: str
    paper: str
    edit: Callable[[Task], dict[str, torch.Tensor]]
    families: tuple[str, ...]
    takes: tuple[str, ...] = ()
    defaults: dict = field(default_factory=dict)


def offered() -> dict[str, importlib.metadata.EntryPoint]:
    """Those of other packages, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def known() -> list[str]:
    """All names, this package's own first."""
    return list(dict.fromkeys([OWN, *BUILT_IN, *sorted(offered())]))


def eraser_of(name: str) -> Eraser:
    """The eraser of that name.

    Raises:
        ValueError: none of that name (lists those there are), two of it, or one that cannot be loaded.
    """
    points = offered()
    if name not in BUILT_IN and name not in points:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(known())}")
    if name in BUILT_IN and name in points:
        raise ValueError(f"the method {name} of this package is also offered by {points[name].value}; uninstall that")
    if name in BUILT_IN:
        return pkgutil.resolve_name(BUILT_IN[name])
    try:
        found = points[name].load()
    except Exception as error:  # of a package that we do not know
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the method {name} cannot be loaded from {points[name].value}: {said}") from None
    if not isinstance(found, Eraser):
        raise ValueError(f"the method {name} is a {type(found).__name__} in {points[name].value}, not an Eraser")
    return found
