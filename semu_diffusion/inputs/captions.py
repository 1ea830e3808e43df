"""Captions of the pictures in a folder: imagefolder's metadata files, or a text file beside each picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .pictures import is_litter
from .tables import PROMPT, column, read_table, read_text, text_of

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # imagefolder's names
FILE = ("file_name", "image_file_name", "filename", "file")
BESIDE = (".txt", ".caption")  # x.txt or x.caption for x.png
SHOWN = 3  # names in a note


@dataclass
class Captions:
    """What each picture is called, by file, and captions that belong to none, in words."""

    of: dict[Path, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def note(self, folder: str | Path) -> str:
        """That captions go unused, how many and which; "" where none does."""
        if not self.unused:
            return ""
        more = ", ..." if len(self.unused) > SHOWN else ""
        return f"{len(self.unused)} captions in {folder} belong to no picture: {', '.join(self.unused[:SHOWN])}{more}"


def read_captions(folder: str | Path, pictures: list[Path]) -> Captions:
    """The captions of a folder's pictures; metadata files go before texts beside a picture, and empty ones are none.

    Raises:
        ValueError: a damaged file, two metadata files in one folder, one without a column of files or of captions, a
            picture that is named twice.
    """
    folder, known = Path(folder), set(pictures)
    captions = Captions()
    for place in sorted({f.parent for f in folder.rglob("*") if _is_metadata(f)}):
        _read_metadata(place, folder, known, captions)
    described = set(captions.of)
    for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in BESIDE and not is_litter(f)):
        place = file.with_suffix("")
        beside = [picture for picture in pictures if place in (picture, picture.with_suffix(""))]  # x.png.txt, x.txt
        text = " ".join(read_text(file).split()) if beside else ""
        if not beside or described & set(beside):
            captions.unused.append(str(file.relative_to(folder)))
        elif text:
            captions.of |= dict.fromkeys(beside, text)
    return captions


def _is_metadata(file: Path) -> bool:
    return file.name.lower() in METADATA and file.is_file()


def _read_metadata(place: Path, folder: Path, known: set[Path], captions: Captions) -> None:
    """Adds the captions of one metadata file, whose file names are relative to it."""
    files = sorted(f for f in place.iterdir() if _is_metadata(f))
    if len(files) > 1:
        raise ValueError(f"{place} has both {files[0].name} and {files[1].name}; take one away")
    if files[0].suffix.lower() == ".parquet":
        raise ValueError(f"{files[0]} is not read; write its rows to metadata.csv or metadata.jsonl")
    rows, source = read_table(files[0]), files[0]
    if not rows:
        return
    named, text = column(rows, FILE, source), column(rows, (*PROMPT, "label"), source)
    for row in rows:
        name, caption = text_of(row, named, source).replace("\\", "/"), text_of(row, text, source)
        picture = place / name
        if picture not in known:
            captions.unused.append(f"{name} (line {row.line})")
        elif picture in captions.of:
            raise ValueError(f"{source}, line {row.line}: {picture.relative_to(folder)} has a caption already")
        elif caption:
            captions.of[picture] = caption
