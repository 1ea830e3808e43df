"""Fields of the option classes: a default, a help text, and checks that name the option."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field


def option(default, help: str):
    """A dataclass field with its help text; a callable default such as `list` makes a new value each time."""
    make = {"default_factory": default} if callable(default) else {"default": default}
    return field(**make, metadata={"help": help})


def require(checks: Iterable[tuple[bool, str]]) -> None:
    """ValueError with the message of the first check that does not hold."""
    for fine, message in checks:
        if not fine:
            raise ValueError(message)
