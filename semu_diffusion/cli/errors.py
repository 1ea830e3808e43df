"""The one way out of the shell: one line for any error, and how to go on after Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

from ..messages import Interrupted


@contextlib.contextmanager
def resumable(hint: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C within the block ends with the hint, which is asked for only then."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(hint()) from None


def resume_hint(folder: Path, begun: str) -> Callable[[], str]:
    """How a command with --resume goes on: where its first file is there, else nothing was done."""
    return lambda: "go on with --resume" if (folder / begun).exists() else "nothing was done yet; run it again"


def fail(message: str, status: int = 2) -> typing.NoReturn:
    """One line on stderr, without what steers a terminal; none where the help, which was shown, says it all."""
    if message:
        line = "".join(c if c.isprintable() else " " for c in message)
        print(f"semu: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)
