"""Prompt files: text with a prompt a line, csv and jsonl with columns prompt, anchor, kind and seed."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".txt", ".csv", ".jsonl")
# Names of files that are not read, so that none of them is taken for a word.
FILE_LIKE = re.compile(r"\S+\.(txt|text|csv|tsv|jsonl?|ya?ml|md|xlsx?|parquet|prompts?)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A line of a prompt file; None where it does not say."""

    prompt: str
    anchor: str | None = None
    kind: str | None = None
    seed: int | None = None


def is_file(concept: str) -> bool:
    """Whether a concept is the path of a file rather than a word: by its ending, in any letter case, or by its place.

    Raises:
        ValueError: it is one of a kind that is not read, or looks like one that is not there.
    """
    text = concept.strip()
    path = text.startswith(("./", "../", "/", "~")) or (os.sep in text and Path(text).exists())
    if not (path or FILE_LIKE.fullmatch(text) or Path(text).suffix.lower() in SUFFIXES):
        return False
    if Path(text).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{text!r} looks like a file, but prompts are read from {', '.join(SUFFIXES)} files only")
    return True


def read_rows(file: str | Path) -> list[Row]:
    """The prompts of a file, with what stands beside them.

    Raises:
        ValueError: no such file, no prompt in it, a csv without a column named prompt, a line that is not JSON.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"no prompts in {file}: there is no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    read = {".csv": _csv, ".jsonl": _jsonl}.get(path.suffix.lower(), _lines)
    rows = [row for row in read(text, file) if row.prompt]
    if not rows:
        raise ValueError(f"no prompts in {file}: expected a text file with one prompt a line, .csv or .jsonl")
    return rows


def _lines(text: str, file: str | Path) -> list[Row]:
    return [Row(line.strip()) for line in text.splitlines()]


def _csv(text: str, file: str | Path) -> list[Row]:
    reader = csv.DictReader(text.splitlines())
    reader.fieldnames = [(name or "").strip().lower() for name in reader.fieldnames or []]
    if "prompt" not in reader.fieldnames:
        raise ValueError(f"{file} needs a column named prompt; it has {', '.join(reader.fieldnames) or 'none'}")
    return [_row(row, f"{file}, line {k}") for k, row in enumerate(reader, 2)]


def _jsonl(text: str, file: str | Path) -> list[Row]:
    rows = []
    for k, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(f"{file}, line {k} is not JSON") from None
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise ValueError(f"{file}, line {k} must hold an object with a prompt")
        rows.append(_row(row, f"{file}, line {k}"))
    return rows


def _row(row: dict, place: str) -> Row:
    """A row of any table; an empty cell of a kind or seed says nothing, and one of an anchor that there is none."""
    kind, seed = row.get("kind") or None, row.get("seed")
    try:
        seed = None if seed in (None, "") else int(seed)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: the seed must be a whole number, got {seed!r}") from None
    anchor = row.get("anchor")
    return Row((row.get("prompt") or "").strip(), None if anchor is None else str(anchor).strip(), kind, seed)
