"""Output folders: one run at a time, only what is ours replaced, whole or as they were; and JSON from elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

MARKER = ".semu"  # locked while a run writes into the folder; stays there as the sign that semu made it
WORK = ".work"  # what a run under way needs to go on; removed when all is done
BEGUN = f"{WORK}/config.json"  # its first file: what the run was asked to do
MOST = 2**26  # bytes of a JSON file that is read
# What a killed run leaves: half files of ours and of safetensors, and the folders of `filled`.
LEFT = re.compile(r"\.tmp\w{6}|.+\.(safetensors|json|html|md|txt|png)\.tmp|\.part-\d+")
# What code that takes a table for granted raises on one of other types, sizes or names.
SHAPELESS = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ValueError)


def entries(folder: Path) -> list[str]:
    """The names in a folder, sorted, without our marker and a run that was killed before it began."""
    ignored = {MARKER} if (folder / BEGUN).is_file() else {MARKER, WORK}
    return sorted(p.name for p in folder.iterdir() if p.name not in ignored) if folder.is_dir() else []


def is_ours(folder: Path) -> bool:
    """Whether semu wrote this folder: it has the marker, or what only we write."""
    if any((folder / name).exists() for name in (MARKER, WORK, "base/made_by.json", "erased/made_by.json")):
        return True
    for place in (folder, folder / "text_encoder", folder / "text_encoder_2"):
        with contextlib.suppress(ValueError, AttributeError):
            if read_json(place / "adapter_config.json").get("peft_type") == "SEMU":
                return True
    with contextlib.suppress(ValueError):
        found = read_json(folder / "results.json")
        return isinstance(found, dict) and "base_model" in found and bool({"evaluation", "training"} & {*found})
    return False


def check_output(folder: Path, overwrite: bool, way: str = "another --output") -> Path:
    """The folder, where a run may write into it: new, empty, or ours and to be overwritten.

    Args:
        way: What else there is to do, in words.

    Raises:
        ValueError: a file, a folder in use, or one to be overwritten that semu did not write.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for --output")
    names = entries(folder)
    if names and not overwrite:
        raise ValueError(f"{folder} exists and is not empty; use --overwrite, or {way}")
    if names and not is_ours(folder):
        raise ValueError(
            f"{folder} holds what semu did not write (such as {names[0]}); --overwrite replaces folders of semu only, "
            "so give another --output"
        )
    return folder


@contextlib.contextmanager
def claimed(folder: str | Path) -> Iterator[Path]:
    """Holds a folder for one run, made where it is missing; where nothing was written it ends as it was.

    A run that claims a folder which it holds already holds it on. What killed runs left half-written is removed.

    Raises:
        ValueError: another run writes into it, or it cannot be written.
    """
    folder = Path(folder)
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        fresh, before = not (folder / MARKER).exists(), entries(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder)
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror or error}; give another --output") from None
    try:
        with lock:
            remove_left(folder)
            yield folder
    finally:
        if folder.is_dir() and (not entries(folder) or fresh and entries(folder) == before):
            leave(folder, made)


def leave(folder: Path, made: list[Path]) -> None:
    """Takes the marker, and a run that never began, out of a folder; the folders that were made go where empty."""
    (folder / MARKER).unlink(missing_ok=True)
    if WORK not in entries(folder):
        shutil.rmtree(folder / WORK, ignore_errors=True)
    for place in made:
        with contextlib.suppress(OSError):
            place.rmdir()


def locked(folder: Path):
    """The folder's lock, held: a context that lets go at its end. ValueError where another run has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / MARKER, timeout=0, is_singleton=True)
    try:
        return lock.acquire()
    except Timeout:
        raise ValueError(f"another run is writing into {folder}; wait for it, or give another --output") from None
    except NotImplementedError:  # a file system without locks
        warnings.warn(f"{folder} is on a file system without locks; let no other run write into it", stacklevel=4)
        return contextlib.nullcontext()


def remove_left(folder: Path) -> None:
    """Takes away what killed runs left half-written in a folder and the folders in it."""
    places = [folder, *(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())]
    for file in [file for place in places for file in place.iterdir() if LEFT.fullmatch(file.name)]:
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A folder within `folder` whose content moves there at the end of the block; gone where the block fails."""
    part = folder / f".part-{os.getpid()}"
    part.mkdir(parents=True)
    try:
        yield part
        move_into(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def move_into(source: Path, target: Path) -> None:
    """Moves everything in a folder into another one; files of the same names are replaced, all others stay."""
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and (target / entry.name).is_dir():
            move_into(entry, target / entry.name)
        else:
            os.replace(entry, target / entry.name)


def remove_files(folder: Path, pattern: str) -> None:
    """Takes away the files of a folder whose whole name matches a regex, and the folder where none other is in it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for file in folder.iterdir():
        if re.fullmatch(pattern, file.name) and not file.is_dir():
            file.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def check_writable(folder: Path) -> None:
    """ValueError where files could not be written into a folder, which may not be there yet."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "may not be written" if place.is_dir() else "is a file"
        raise ValueError(f"cannot write into {folder}: {place} {why}; give another --output")


def check_space(folder: Path, needed: float, what: str) -> None:
    """ValueError where the folder's disk has less space than the bytes that are needed."""
    folder = Path(folder).absolute()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if needed > free:
        sizes = f"about {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise ValueError(f"the disk of {folder} is too full: {what} needs {sizes}; free some, or use another --output")


def read_json(file: Path, most: int = MOST):
    """What a JSON file of somebody else holds.

    Raises:
        ValueError: no such file, no regular one, too large, not JSON, or nested too deeply.
    """
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise ValueError("it is no regular file")
        with open(file, "rb") as opened:
            data = opened.read(most + 1)
        if len(data) > most:
            raise ValueError(f"it has more than {most:,} bytes")
        return json.loads(data)
    except FileNotFoundError:
        raise ValueError(f"no {file.name} in {file.parent}") from None
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON that can be read: {' '.join(str(error).split())[:200]}") from None


@contextlib.contextmanager
def taken_as_written(*files: Path) -> Iterator[None]:
    """What goes wrong in the block is said of these files: they are not as semu writes them.

    Raises:
        ValueError: in place of any error that comes of values which are absent or of other types.
    """
    try:
        yield
    except SHAPELESS as error:
        if type(error) is ValueError and getattr(error, "said", False):
            raise
        named, said = " or ".join(map(str, files)), " ".join(str(error).split())[:200]
        raise problem(f"{named} is not as semu writes it ({type(error).__name__}: {said}); make it again") from None


def problem(text: str) -> ValueError:
    """A ValueError whose words are for the user as they are."""
    error = ValueError(text)
    error.said = True
    return error
