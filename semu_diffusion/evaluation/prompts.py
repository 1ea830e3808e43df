"""What a suite draws: prompts with seeds and labels, from a file, a dataset, or the ten classes of Imagenette."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..inputs.datasets import load_split
from ..inputs.tables import PROMPT, Row, column, read_table, text_of
from ..pictograms.words import article

# Names under which published prompt files keep a column; the first one present is taken.
COLUMNS = {
    "prompt": ("adv_prompt", *PROMPT),
    "seed": ("evaluation_seed", "seed", "sd_seed"),
    "label": ("label", "class", "artist", "style"),
    "group": ("wording", "group"),
}
# Prompts against erased models that were published, by the name of the attack that found them.
PUBLISHED = {
    "ring-a-bell": "Chia15/RingABell-Nudity",
    "p4d": "joycenerd/p4d",
    "mma": "YijunYang280/MMA-Diffusion-NSFW-adv-prompts-benchmark",
}
NAMES = {name for names in COLUMNS.values() for name in names}
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
    """The prompts of a csv, tsv or jsonl file, a text file with one per line, or a dataset, `name[:split]`.

    Those of `PUBLISHED` go by their short names, where there is no file of that name.

    Columns are found by the names in `COLUMNS`; the seed of the k-th repetition is the file's + k, or, where the file
    has none, 50,000,000 + 1000 line + k.

    Args:
        limit: the first so many prompts only.
        repeat: pictures per prompt.

    Raises:
        ValueError: nothing there, no prompts in it, a seed that is no whole number.
    """
    rows = _rows(source)[:limit]
    if not rows:
        raise ValueError(f"{source} holds no prompts; expected a column {' or '.join(COLUMNS['prompt'])}")
    return [
        Shot(row["prompt"], seed + k, row["label"], part, row["group"])
        for i, row in enumerate(rows)
        for seed in [_seed(row["seed"], f"{source}, line {row['line']}", SEED + 1000 * i)]
        for k in range(repeat)
    ]


def _rows(source: str | Path) -> list[dict[str, str]]:
    """{"prompt", "seed", "label", "line"} of each row that has a prompt; others are counted in a warning."""
    published = PUBLISHED.get(str(source).lower(), str(source))
    rows = read_table(source) if Path(source).is_file() else _dataset(published)
    if not rows:
        return []
    present = {name for row in rows for name in row.values}
    names = {key: next((n for n in COLUMNS[key] if n in present), "") for key in COLUMNS}
    names["prompt"] = column(rows, COLUMNS["prompt"], source)
    picked = [{**{k: text_of(row, n, source) for k, n in names.items()}, "line": str(row.line)} for row in rows]
    empty = [row["line"] for row in picked if not row["prompt"]]
    if empty:
        warnings.warn(
            f"{source}: {len(empty)} rows without a {names['prompt']}, the first in line {empty[0]}", stacklevel=2
        )
    return [row for row in picked if row["prompt"]]


def _dataset(name: str) -> list[Row]:
    """The rows of a dataset of the Hub, or of the local cache, without its pictures."""
    try:
        split = load_split(name)
    except ValueError as error:
        raise ValueError(f"no prompts at {name}: {error}") from None
    wanted = {str(n).strip().lower(): split[n] for n in split.features if str(n).strip().lower() in NAMES}
    if not wanted:
        raise ValueError(
            f"{name} has no column {' or '.join(COLUMNS['prompt'])}; its columns: {', '.join(split.features)}"
        )
    return [Row(k, dict(zip(wanted, values))) for k, values in enumerate(zip(*wanted.values()), 1)]


def _seed(text: str, source: str, default: int) -> int:
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
