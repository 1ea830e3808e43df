"""Text that reaches the terminal: what files of strangers say cannot steer it."""

from __future__ import annotations

import sys

LONG = 2000  # characters of a line of ours


def printable(value: object, most: int = 200) -> str:
    """A value from a stranger's file as text that cannot steer the terminal."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return "".join(c if c.isprintable() else " " for c in text)[:most]


def tell(text: str) -> None:
    """A line of ours on stderr, so that stdout stays for results."""
    print(f"semu: {printable(text, LONG)}", file=sys.stderr)
