"""Pictures with their captions from a folder or a dataset, opened one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from .captions import read_captions
from .datasets import caption_texts, load_split, picture_column, stored_picture, undecoded
from .pictures import SUFFIXES, is_litter, list_pictures, open_picture

UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".eps", ".raw", ".dng", ".cr2", ".nef", ".tga")


@dataclass
class Collection:
    """N pictures. `open(k)` reads the k-th, so that no more files are open at a time than are looked at.

    captions: One for each picture, None where it has none.
    notes: What was left aside, in words.
    """

    open: Callable[[int], Image.Image]
    captions: list[str | None]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.captions)


def open_collection(source: str | Path) -> Collection:
    """The pictures of a folder, or of a dataset `name[:split]`, a parquet file or a folder of them.

    Raises:
        ValueError: nothing there, no pictures in it, or captions that cannot be read.
    """
    folder = Path(source)
    if folder.is_dir() and not [f for f in folder.glob("*.parquet") if f.stem != "metadata"]:
        return _folder(folder)
    if folder.suffix.lower() in SUFFIXES:
        raise ValueError(f"{source} is a single file; give the folder that it lies in")
    return _dataset(str(source))


def _folder(folder: Path) -> Collection:
    files = list_pictures(folder)
    captions, notes = read_captions(folder, files), []
    unread = sorted(f.name for f in folder.rglob("*") if f.suffix.lower() in UNREAD and not is_litter(f))
    if unread:
        notes.append(f"{len(unread)} pictures in {folder} are of a kind that is not read, as {unread[0]}")
    if captions.unused:
        notes.append(captions.note(folder))
    return Collection(lambda k: open_picture(files[k]), [captions.of.get(file) for file in files], notes)


def _dataset(source: str) -> Collection:
    split = load_split(source)
    picture, rows = picture_column(split, source), len(split)
    if not rows:
        raise ValueError(f"no pictures in {source}")
    captions, notes = caption_texts(split)
    stored = undecoded(split, picture)
    opened = lambda k: stored_picture(stored[k][picture], f"row {k} of {source}")  # noqa: E731
    return Collection(opened, captions, notes)
