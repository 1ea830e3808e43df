"""What a run calls to say where it is; subclasses show it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapter.subspace import Basis
    from .diffusion.config import EraseConfig
    from .diffusion.plan import Plan


class Stopped(KeyboardInterrupt):
    """A callback may raise this to end a run: as Ctrl-C does, but a training step that is done is kept."""


class Callback:
    """Says nothing to anybody; `cli.display.Display` and `app.jobs.Teller` show the same calls."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins."""

    def advance(self, count: int = 1) -> None:
        """Part of it is done."""

    def planned(self, plan: Plan, config: EraseConfig) -> None:
        """It is known what is trained on, and with which choices."""

    def ranks(self, bases: dict[str, Basis]) -> None:
        """The bases are known."""

    def note(self, text: str) -> None:
        """What was decided, in a line."""

    def warn(self, text: str) -> None:
        """Something that is allowed and hardly meant; said to nobody, it is a Python warning."""
        warnings.warn(text, stacklevel=3)

    def row(self, row: dict) -> None:
        """A training step is done."""
