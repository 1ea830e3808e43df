"""Classes by name: when two are the same, which place one has among others, and labels as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def plain(label: str) -> str:
    """A label in lower case, with one space for each underscore, hyphen or white space."""
    return " ".join(re.sub(r"[_\s-]+", " ", label).lower().split())


def same_name(label: str, named: str) -> bool:
    """Whether a classifier's label, with its synonyms after commas, is this one: "saw, chainsaw" is "saw"."""
    return plain(label) in {plain(part) for part in (named, *named.split(","))}


def places(labels: Iterable[str], named: Sequence[str]) -> dict[str, list[int]]:
    """For each label the places at which a classifier has it; the whole name goes before a synonym."""
    found = {}
    for label in labels:
        exact = [k for k, own in enumerate(named) if plain(own) == plain(label)]
        found[label] = exact or [k for k, own in enumerate(named) if same_name(label, own)]
    return found


def are_names(labels: Sequence[str]) -> bool:
    """Whether labels say anything: not numbers, and not the LABEL_0 that transformers fills in."""
    return not all(re.fullmatch(r"(label|class)?[ _]?\d+", label.strip(), re.IGNORECASE) for label in labels)


def listed(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def encode(values: list, names: list[str] | None, source: str) -> tuple[Tensor, list[str]]:
    """Labels as numbers (N,) and the classes' names.

    Args:
        values: Numbers, texts or booleans as a data set holds them.
        names: Of a ClassLabel, or of the training split; None: those that there are, in order.

    Raises:
        ValueError: a missing label, -1, one beyond the names, or of another type; says how many and where the first is.
    """
    missing = [k for k, v in enumerate(values) if v is None or v == "" or v != v or v == -1]
    if missing:
        raise ValueError(
            f"{source}: {len(missing)} of {len(values)} examples have no label (row {missing[0]}: "
            f"{values[missing[0]]!r}); take them out"
        )
    if all(isinstance(v, str) for v in values):
        names = sorted(set(values)) if names is None else names
        number = {name: k for k, name in enumerate(names)}
        odd = next((v for v in values if v not in number), None)
        if odd is not None:
            raise ValueError(f"{source}: the label {odd!r} is none of the training split's, {listed(names)}")
        return torch.tensor([number[v] for v in values], dtype=torch.long), names
    numbers = [whole(v, k, source) for k, v in enumerate(values)]
    count = max(numbers) + 1 if names is None else len(names)
    odd = next((k for k, v in enumerate(numbers) if not 0 <= v < count), None)
    if odd is not None:
        raise ValueError(f"{source}: the label of row {odd} is {numbers[odd]}, not in 0..{count - 1}")
    if names is None and count > 2 * len(set(numbers)) + 1:
        raise ValueError(
            f"{source}: labels run to {count - 1}, but there are {len(set(numbers))} of them; number them from 0"
        )
    return torch.tensor(numbers, dtype=torch.long), names or [str(k) for k in range(count)]


def whole(value, row: int, source: str) -> int:
    """A label as a whole number. ValueError for anything else."""
    value = value.item() if hasattr(value, "item") else value  # of numpy and torch
    if isinstance(value, (int, float)) and math.isfinite(value) and value == int(value):
        return int(value)
    raise ValueError(f"{source}: the label of row {row} is {str(value)[:40]!r}, neither a whole number nor a name")
