"""What is said to the user, in the shell and on the page: any error in one line, nothing of the libraries' own."""

from __future__ import annotations

import errno
import logging
import traceback
from pathlib import Path

DEBUG = "--debug"
AGAIN = "then run it again"
# What errors of the operating system ask for.
SYSTEM = {
    errno.ENOSPC: f"the disk is full; free some space, {AGAIN}",
    errno.EDQUOT: f"the disk quota is used up; free some space, {AGAIN}",
    errno.EFBIG: f"the file would be larger than may be written here; raise `ulimit -f`, {AGAIN}",
    errno.EROFS: "the disk is read-only; write somewhere else",
    errno.EACCES: "no right to do that; change the file's mode, or write somewhere else",
    errno.EPERM: "no right to do that; change the file's mode, or write somewhere else",
    errno.EMFILE: f"too many open files; raise `ulimit -n`, {AGAIN}",
    errno.ENOENT: "there is no such file; was it removed while the run went on?",
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.EIO: "the disk does not work; write somewhere else",
}
MEMORY = (
    "out of memory; use less at a time (--max-memory, --batch-size), --dtype bf16, --offload model, or another --device"
)


class Interrupted(Exception):
    """Ctrl-C, with how to go on."""


def message_of(error: BaseException) -> tuple[str, int]:
    """The line and the exit status for anything that was raised."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, Interrupted):
        return f"interrupted; {text}", 130
    if hasattr(error, "format_message"):  # usage errors of typer and click know how to say what is wrong
        return error.format_message(), 2
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "DefaultCPUAllocator" in text:
        return MEMORY, 2
    if isinstance(error, NotImplementedError) and "meta tensor" in text:
        return "this model cannot be offloaded layer by layer; use --offload model or group", 2
    if kind == "SafetensorError":
        return safetensors_message(text), 2
    if isinstance(error, OSError) and error.errno in SYSTEM:
        named = f" ({error.filename})" if error.filename else ""
        return f"{SYSTEM[error.errno]}{named}", 2
    if isinstance(error, ImportError):
        return f"{text}; install what is missing, see `semu doctor`", 2
    if isinstance(error, (ValueError, FloatingPointError, OSError)) and text:
        return text, 2
    return f"unexpected {kind}{place_of(error)}: {text[:300]}; {REPORT}", 2


REPORT = f"run it again with {DEBUG}, and please report what that shows with the output of `semu doctor`"


def safetensors_message(text: str) -> str:
    """Its errors are none of the system's, but say which they are."""
    known = {"os error 28": errno.ENOSPC, "os error 122": errno.EDQUOT, "os error 27": errno.EFBIG,
             "os error 30": errno.EROFS, "os error 13": errno.EACCES, "os error 2)": errno.ENOENT}  # fmt: skip
    found = next((number for words, number in known.items() if words in text), None)
    return SYSTEM[found] if found else f"a safetensors file is damaged, download or write it again: {text}"


def place_of(error: BaseException) -> str:
    """Where in this package an error came from."""
    package = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(package)]
    return f" in {Path(frames[-1].filename).relative_to(package).as_posix()}:{frames[-1].lineno}" if frames else ""


def quieten() -> None:
    """No progress bars and notices of the libraries between our own lines."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity(logging.CRITICAL)  # what goes wrong, we say ourselves
        library.utils.logging.disable_progress_bar()
