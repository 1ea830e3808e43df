"""What a run shows on the terminal: its stages with progress and ETA, the rank table, the loss as it falls."""

from __future__ import annotations

import sys
from collections import defaultdict

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from .diffusion.reporter import Silent

GROUPS = (("cross-attention", "attn2"), ("self-attention", "attn1"), ("feed-forward", "ff."), ("resnets", "resnets"))


class Display(Silent):
    """Shows a run on stderr, so that stdout stays for results; a context manager."""

    def __init__(self):
        self.console = Console(file=sys.stderr)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self.task = None

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *error) -> None:
        if error[0] is None:
            self._finish()
        self.progress.stop()

    def _finish(self) -> None:
        if self.task is not None:
            task = self.progress.tasks[self.task]
            self.progress.update(self.task, completed=task.completed or 1, total=task.completed or 1)

    def stage(self, name: str, total: int = 0) -> None:
        self._finish()
        self.task = self.progress.add_task(name, total=total or None, note="")

    def advance(self, count: int = 1) -> None:
        self.progress.advance(self.task, count)

    def ranks(self, bases: dict) -> None:
        """A row per group of layers: how many, their ranks, the energy kept."""
        groups = defaultdict(list)
        for name, basis in bases.items():
            groups[next((title for title, part in GROUPS if part in name), "other")].append(basis)
        table = Table("layers", "number", "ranks", "energy kept", "trained", box=None, header_style="bold")
        for title, members in groups.items():
            ranks = [b.rank for b in members]
            energy = sum(b.energy for b in members) / len(members)
            table.add_row(
                title,
                str(len(members)),
                f"{min(ranks)}-{max(ranks)}",
                f"{energy:.0%}",
                f"{sum(r * r for r in ranks):,}",
            )
        self.progress.console.print(table)

    def row(self, row: dict) -> None:
        note = f"loss {row['loss']:.4f}" + (f"  left {row['left']:+.0%}" if "left" in row else "")
        self.progress.update(self.task, advance=1, note=note)


def metrics_table(base: dict, erased: dict, rows: list[tuple[str, str]]) -> Table:
    """The base model's row beside the erased one's; rows are (key, meaning)."""
    table = Table("", "base", "erased", "", box=None, header_style="bold")
    show = lambda v: "-" if v is None else f"{v:.2f}" if isinstance(v, float) else str(v)  # noqa: E731
    for key, meaning in rows:
        table.add_row(key, show(base.get(key)), show(erased.get(key)), meaning)
    return table
