"""Labels by name: those of a data set in the order in which a classifier has its outputs."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from ..inputs.labels import are_names, listed, places
from .data import Data


def output_names(model: nn.Module) -> list[str] | None:
    """What the outputs of a classifier stand for: `id2label` of transformers, `class_names` of ours; None: unknown."""
    config = getattr(model, "config", None)
    known = getattr(config, "id2label", None)
    if not known:
        return getattr(model, "class_names", None)
    return [str(known.get(k, f"LABEL_{k}")) for k in range(config.num_labels)]


def match_labels(data: Data, model: nn.Module, trained: bool) -> Data:
    """The data with labels renumbered, in place, so that each is the model's output of that name.

    A model that is trained on the data first learns their order, if it does not know all the names.

    Raises:
        ValueError: names that the model lacks or has twice, or outputs whose meaning cannot be told.
    """
    named = output_names(model)
    if named is None or named == data.classes:
        return data
    found = places(data.classes, named)
    absent, twice = (
        [c for c, at in found.items() if not at and shown(data, c)],
        [c for c, at in found.items() if len(at) > 1],
    )
    if are_names(named) and are_names(data.classes) and not absent and not twice:
        order = torch.tensor([at[0] if at else -1 for at in found.values()])
        for examples in (data.train, data.held_out, data.test):
            examples.y = order[examples.y]
        data.classes = named
        return data
    enough = len(named) >= len(data.classes)
    if trained and enough:
        return data
    if not enough or len(named) != len(data.classes):
        raise ValueError(f"the model has {len(named)} classes and {data.name} has {len(data.classes)}; {told(absent)}")
    if are_names(named) and are_names(data.classes):
        raise ValueError(f"the model's classes are not those of {data.name}: {told(absent, twice)}")
    if are_names(named):
        raise ValueError(
            f"the labels of {data.name} are numbers without names, and the model's classes are {listed(named)}: "
            "which is which cannot be told; store the labels with their names (ClassLabel, or texts)"
        )
    warnings.warn(f"the model does not name its {len(named)} classes; taken in the order of {data.name}", stacklevel=2)
    return data


def shown(data: Data, name: str) -> bool:
    """Whether any example is of this class."""
    k = data.classes.index(name)
    return any(bool((examples.y == k).any()) for examples in (data.train, data.held_out, data.test))


def told(absent: list[str], twice: list[str] | None = None) -> str:
    """What is wrong with names, in words."""
    if twice:
        return f"it has {listed(twice)} more than once"
    return f"it knows no {listed(absent)}" if absent else "choose a model for these classes"


def class_numbers(wanted: list[str | int], classes: list[str]) -> list[int]:
    """The numbers of classes that are given by name, or by number. ValueError for one that is not there."""
    found = []
    for given in wanted:
        at = places([str(given)], classes)[str(given)]
        if len(at) == 1:
            found.append(at[0])
        elif str(given).isdecimal() and int(given) < len(classes):
            found.append(int(given))
        else:
            raise ValueError(f"no example of class {given}; the classes are {listed(classes)}")
    return found
