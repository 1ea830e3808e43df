"""What a suite draws: prompts with seeds and labels, from a file, a dataset, or the ten classes of Imagenette."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..pictograms.words import article

# Names under which published prompt files keep a column; the first one present is taken.
COLUMNS = {
    "prompt": ("prompt", "caption", "text"),
    "seed": ("evaluation_seed", "seed", "sd_seed"),
    "label": ("label", "class", "artist", "style"),
    "group": ("wording", "group"),
}
IMAGENETTE = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck", "gas pump",
    "golf ball", "parachute",
)  # fmt: skip
SEED = 50_000_000  # of prompts whose file gives none; far from those of training and of the pictograms' grid


class Shot(NamedTuple):
    """One picture to draw: what is asked for, from which noise, what it should show, and which figures it enters.

    `group` names some that have a figure of their own, as the wordings of the suite of that name.
    """

    prompt: str
    seed: int
    label: str = ""
    part: str = "prompts"
    group: str = ""

    @property
    def file(self) -> str:
        """Its file name, which depends on nothing but prompt and seed."""
        return f"{self.seed}-{hashlib.sha256(self.prompt.encode()).hexdigest()[:12]}.png"


def read_prompts(source: str | Path, part: str = "prompts", limit: int | None = None, repeat: int = 1) -> list[Shot]:
    """The prompts of a csv or tsv file with a header, a text file with one per line, or a dataset, `name[:split]`.

    Columns are found by the names in `COLUMNS`; the seed of the k-th repetition is the file's + k, or, where the file
    has none, 50,000,000 + 1000 line + k.

    Args:
        limit: the first so many prompts only.
        repeat: pictures per prompt.

    Raises:
        ValueError: nothing there, no prompts in it, a seed that is no whole number.
    """
    rows = list(_first(_rows(source), limit))
    if not rows:
        raise ValueError(f"{source} holds no prompts; expected a column {' or '.join(COLUMNS['prompt'])}")
    return [
        Shot(row["prompt"], seed + k, row["label"], part, row["group"])
        for i, row in enumerate(rows)
        for seed in [_seed(row["seed"], source, SEED + 1000 * i)]
        for k in range(repeat)
    ]


def _rows(source: str | Path) -> Iterator[dict[str, str]]:
    """{"prompt", "seed", "label"} of each row that has a prompt."""
    path = Path(source)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        with open(path, newline="", encoding="utf-8-sig") as file:
            found = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    elif path.is_file():
        found = [{"prompt": line} for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        found = _dataset(str(source))
    for row in found:
        lower = {str(k).lower(): v for k, v in row.items()}
        picked = {key: next((lower[n] for n in names if n in lower), None) for key, names in COLUMNS.items()}
        if picked["prompt"] and str(picked["prompt"]).strip():
            yield {k: "" if v is None else str(v).strip() for k, v in picked.items()}


def _dataset(name: str) -> Iterable[dict]:
    """The rows of a dataset of the Hub, or of the local cache."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"no file {name}, and datasets need: pip install 'semu-diffusion[data]'") from None
    name, _, split = name.partition(":")
    if name.startswith((".", "/")) or name.count("/") > 1 or Path(name).suffix in (".csv", ".tsv", ".txt"):
        raise ValueError(f"no prompts at {name}: expected a csv, tsv or text file, or the name of a dataset")
    try:
        return load_dataset(name, split=split or "train")
    except Exception as error:  # the library raises whatever its backends raise
        raise ValueError(f"no file {name}, and no dataset: {str(error).strip().splitlines()[0][:200]}") from None


def _first(rows: Iterator[dict[str, str]], limit: int | None) -> Iterator[dict[str, str]]:
    for i, row in enumerate(rows):
        if limit is not None and i >= limit:
            return
        yield row


def _seed(text: str, source: str | Path, default: int) -> int:
    try:
        number = float(text or default)  # pandas writes whole numbers as 7.0
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):  # no number, NaN or infinity
        pass
    raise ValueError(f"{source}: the seed {text!r} is no whole number")


def imagenette(repeat: int) -> list[Shot]:
    """`repeat` pictures of each class, "an image of a church", with seeds of their own."""
    return [
        Shot(f"an image of {article(name)}", SEED + 1000 * i + k, name)
        for i, name in enumerate(IMAGENETTE)
        for k in range(repeat)
    ]


def digest(shots: Sequence[Shot]) -> str:
    """SHA-256 over prompts, seeds and labels, in order: equal for equal evaluations and no others."""
    rows = [list(shot if shot.group else shot[:4]) for shot in shots]  # as before there were groups
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
