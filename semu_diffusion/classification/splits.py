"""Which examples to forget: a random share, whole classes, or a file of indices; kept as JSON beside the result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..adapter.weights import write_atomic


@dataclass
class Split:
    """Indices into the training set, ascending; `classes` are the ones that are forgotten as a whole."""

    forget: list[int]
    retain: list[int]
    classes: list[int]
    about: str
    seed: int | None = None

    def save(self, path: str | Path) -> None:
        """Writes the split as JSON."""
        write_atomic(Path(path), json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """A saved split. ValueError where there is none."""
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a split: {' '.join(str(error).split())}") from None


def make_split(labels: torch.Tensor, forget: torch.Tensor, about: str, seed: int | None = None, classes=()) -> Split:
    """The split that forgets these indices of the labels (N,).

    Raises:
        ValueError: nothing or everything would be forgotten, or a class not in `classes` would be emptied.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[forget] = True
    if not chosen.any() or chosen.all():
        raise ValueError(f"the forget set must be a part of the training set, got {chosen.sum()} of {len(labels)}")
    emptied = sorted(set(labels[chosen].tolist()) - set(labels[~chosen].tolist()) - set(classes))
    if emptied:
        raise ValueError(
            f"this split would forget every example of class {emptied[0]}; "
            f"ask for it with --forget-class {emptied[0]}, or forget less"
        )
    parts = [torch.nonzero(mask).flatten().tolist() for mask in (chosen, ~chosen)]
    return Split(*parts, sorted(classes), about, seed)


def random_split(labels: torch.Tensor, fraction: float, seed: int = 0) -> Split:
    """Forgets a random fraction, in (0, 1), of all examples; the same for the same seed."""
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to forget must be in (0, 1), got {fraction}")
    count = max(1, round(fraction * len(labels)))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return make_split(labels, order[:count], f"random {fraction:.3g}", seed)


def class_split(labels: torch.Tensor, classes: int | list[int]) -> Split:
    """Forgets whole classes. ValueError for one that the labels do not hold."""
    classes = sorted({classes} if isinstance(classes, int) else set(classes))
    absent = sorted(set(classes) - set(labels.tolist()))
    if absent or not classes:
        known = f"{labels.min().item()}..{labels.max().item()}"
        raise ValueError(f"no example of class {absent[0] if absent else 'nothing'}; the labels are {known}")
    mask = torch.isin(labels, torch.tensor(classes))
    return make_split(labels, torch.nonzero(mask).flatten(), f"class {', '.join(map(str, classes))}", None, classes)


def index_split(labels: torch.Tensor, file: str | Path) -> Split:
    """Forgets the indices of a file: a JSON list, or whole numbers with white space between."""
    file = Path(file)
    try:
        text = file.read_text()
        index = json.loads(text) if text.lstrip().startswith("[") else [int(word) for word in text.split()]
        index = torch.tensor(index)
        if index.numel() and index.dtype != torch.int64:
            raise ValueError("they must be whole numbers")
        index = index.long()
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{file} is no list of indices: {' '.join(str(error).split())}") from None
    if index.ndim != 1 or (index.numel() and not 0 <= index.min() <= index.max() < len(labels)):
        raise ValueError(f"{file}: indices must be in 0..{len(labels) - 1}")
    return make_split(labels, index, f"indices of {file.name}")


def choose_split(
    labels: torch.Tensor, fraction: float | None, classes: list[int] | None, index: Path | None, seed: int
) -> Split:
    """The split that the options ask for."""
    if classes:
        return class_split(labels, classes)
    return index_split(labels, index) if index else random_split(labels, 0.1 if fraction is None else fraction, seed)
