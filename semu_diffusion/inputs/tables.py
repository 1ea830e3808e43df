"""One reader for tables and texts: UTF-8 with or without BOM, by ending, rows by name and with their line numbers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
BOMS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x00\x00\xfe\xff", "UTF-32"))
MOST_FIELD = 2**24  # characters of one field of a csv

# Names under which published files keep a column; the first one present is taken.
PROMPT = ("prompt", "caption", "text")


class Row(NamedTuple):
    """A row of a table: its line in the file, from 1, and its values by lower-case column name."""

    line: int
    values: dict[str, Any]


def is_table(name: str | Path) -> bool:
    """Whether `read_table` reads a file of this name: by its ending, in any letter case."""
    return Path(name).suffix.lower() in SUFFIXES


def read_text(file: str | Path) -> str:
    """The text of a UTF-8 file, without its BOM, every line end as a line feed.

    Raises:
        ValueError: no such file, or one in another encoding, with the line.
    """
    if not Path(file).is_file():
        raise ValueError(f"no file {file}")
    data = Path(file).read_bytes()
    other = next((name for bom, name in BOMS if data.startswith(bom)), None)
    if other:
        raise ValueError(f"{file} is {other} text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{file}, line {text.count(chr(10), 0, text.index(chr(0))) + 1}: not text but binary data")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_table(file: str | Path) -> list[Row]:
    """The rows of a csv, tsv or jsonl file, or of a text file, each line of which is a "prompt"; blank ones left out.

    Column names are stripped and in lower case. A csv whose header has semicolons and no comma, as spreadsheets write
    it in many countries, is read as such. A line of a jsonl may be a text alone.

    Raises:
        ValueError: no such file, another ending or encoding; a row that does not fit its header, a line that is no
            JSON, each with its number.
    """
    kind = Path(file).suffix.lower()
    if kind and kind not in SUFFIXES:
        raise ValueError(f"cannot read {file}: expected a file that ends in {', '.join(SUFFIXES)}")
    text = read_text(file)
    if kind in (".csv", ".tsv"):
        return list(_separated(text, "\t" if kind == ".tsv" else ",", file))
    if kind in (".jsonl", ".ndjson"):
        return list(_json_lines(text, file))
    return [Row(k, {"prompt": line.strip()}) for k, line in enumerate(text.split("\n"), 1) if line.strip()]


def _separated(text: str, delimiter: str, file: str | Path) -> Iterator[Row]:
    header_line = text.lstrip("\n").split("\n", 1)[0]
    if delimiter == "," and "," not in header_line and ";" in header_line:
        delimiter = ";"
    before = csv.field_size_limit(MOST_FIELD)
    reader, header, end = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), None, 0
    try:
        for fields in reader:
            line, end = end + 1, reader.line_num  # a quoted field may go over several lines
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = _header(fields, file)
                continue
            if len(fields) > len(header):
                more = f"{len(fields)} fields under {len(header)} names"
                raise ValueError(f"{file}, line {line}: {more}; put a text with {delimiter!r} in it into quotes")
            yield Row(line, dict(zip(header, fields)))
    except csv.Error as error:
        raise ValueError(f"{file}, line {end + 1}: {error}; is a quote left open?") from None
    finally:
        csv.field_size_limit(before)


def _header(names: Sequence[Any], file: str | Path) -> list[str]:
    """Column names, stripped and in lower case. ValueError where two are the same."""
    names = [str(name).strip().lower() for name in names]
    twice = next((name for k, name in enumerate(names) if name and name in names[:k]), None)
    if twice:
        raise ValueError(f"{file} has two columns named {twice}")
    return names


def _json_lines(text: str, file: str | Path) -> Iterator[Row]:
    for k, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}, line {k}: no JSON ({str(error).splitlines()[0]})") from None
        row = {"prompt": row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {k}: expected an object or a text, got {line.strip()[:40]}")
        yield Row(k, dict(zip(_header(list(row), f"{file}, line {k}"), row.values())))


def column(rows: Sequence[Row], names: Sequence[str], source: str | Path) -> str:
    """The first of these names that is a column of the rows. ValueError where none is; lists those there are."""
    present = dict.fromkeys(name for row in rows for name in row.values)
    found = next((name for name in names if name in present), None)
    if found is None:
        raise ValueError(f"{source} has no column {' or '.join(names)}; its columns: {', '.join(present) or 'none'}")
    return found


def text_of(row: Row, name: str, source: str | Path) -> str:
    """A row's text in a column, stripped; "" where it has none. ValueError for a list or an object."""
    value = row.values.get(name)
    if isinstance(value, (list, dict, bool)):
        raise ValueError(f"{source}, line {row.line}: the {name} is no text but {str(value)[:40]}")
    return "" if value is None else str(value).strip()
