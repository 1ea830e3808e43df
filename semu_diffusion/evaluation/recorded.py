"""Results that a folder of somebody else holds: read with care, its pictures from within the folder only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from PIL import Image

from ..adapter.claims import problem, read_json

MOST_PIXELS = 2**25  # of a picture; 5800 x 5800
MOST_BYTES = 2**27


def read_results_file(folder: Path) -> dict:
    """A folder's results.json. ValueError where there is none, or another thing."""
    file = folder / "results.json"
    if not file.exists():
        raise ValueError(f"no results.json in {folder}; report on a folder of `semu erase` or `semu eval`")
    results = read_json(file)
    if not isinstance(results, dict):
        raise ValueError(f"{file} holds no results")
    return results


def inside(folder: Path, name: str) -> Path:
    """The plain file of that name in a folder, or in one of its folders.

    Raises:
        ValueError: a name that leads out of the folder, a link on the way, or no regular file of a sensible size.
    """
    path, parts = folder / name, Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise problem(f"{name!r} is not within {folder}; only its own pictures are shown, or those of --images")
    if any(folder.joinpath(*parts[: k + 1]).is_symlink() for k in range(len(parts))):
        raise problem(f"{path} is a link; only the folder's own pictures are shown")
    try:
        found = os.lstat(path)
    except OSError as error:
        raise problem(f"a picture of the results is missing: {path} ({error.strerror})") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
        raise problem(f"{path} is no regular file, or larger than {MOST_BYTES:,} bytes")
    return path


def open_picture(file: Path) -> Image.Image:
    """A picture, of which only the head was read, so that a small file cannot ask for much memory.

    Raises:
        ValueError: no picture, or one of too many pixels.
    """
    try:
        image = Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise problem(f"a picture of the results is damaged: {file} ({error})") from None
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise problem(f"{file} has {image.width} x {image.height} pixels; more than {MOST_PIXELS:,} are not shown")
    return image
