"""Prompt files: text with a prompt a line, csv and jsonl with columns prompt, anchor, kind and seed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...inputs.tables import PROMPT, SUFFIXES, column, read_table, text_of
from ...inputs.tables import Row as TableRow

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
    """The prompts of a file, with what stands beside them; an empty anchor says that there is none.

    Raises:
        ValueError: as `inputs.tables.read_table`; no such file, no prompt in it, a table without a column of prompts.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"no prompts in {file}: there is no such file")
    table = read_table(path)
    name = column(table, PROMPT, file) if table else ""
    rows = [_row(row, name, file) for row in table if text_of(row, name, file)]
    if not rows:
        raise ValueError(f"no prompts in {file}: expected a text file with one prompt a line, .csv or .jsonl")
    return rows


def _row(row: TableRow, name: str, file: str | Path) -> Row:
    anchor, seed = (row.values.get(key) for key in ("anchor", "seed"))
    try:
        seed = None if seed in (None, "") else int(seed)
    except (TypeError, ValueError):
        raise ValueError(f"{file}, line {row.line}: the seed must be a whole number, got {seed!r}") from None
    kind = text_of(row, "kind", file) or None
    return Row(text_of(row, name, file), None if anchor is None else text_of(row, "anchor", file), kind, seed)
