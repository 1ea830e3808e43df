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
from rich.table import Column, Table
from rich.text import Text

from ..callbacks import Callback
from ..diffusion.blocks import block_of, by_depth, depth_bars
from ..hub.card import figure
from ..hub.contents import FACTS
from .terminal import LONG, printable

GROUPS = (("cross-attention", "attn2"), ("self-attention", "attn1"), ("feed-forward", "ff."), ("resnets", "resnets"))

INTERFERENCE = {
    "columns": "overlap of the outputs' spaces (0 none, 1 one within the other)",
    "rows": "overlap of the inputs' spaces",
    "chance": "what random spaces of these ranks would have (outputs)",
    "cosine": "cosine of the updates",
}


class Display(Callback):
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

    def note(self, text: str) -> None:
        self.progress.console.print(printable(text, 1000), markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"semu: {printable(text, LONG)}", markup=False, highlight=False, soft_wrap=True)

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
    for key, meaning in rows:
        table.add_row(key, figure(base.get(key)), figure(erased.get(key)), meaning)
    return table


def wordings_table(wordings: dict[str, dict]) -> Table:
    """Each wording: how often the base model draws it, whether the erased one still does, and is it a picture."""
    table = Table("wording", "drawn before", "UA", "95 %", "natural", "95 %", "pictures", box=None, header_style="bold")
    for name, own in wordings.items():
        cells = [figure(own["drawn"]) + ("" if own["counts"] else ", left out")]
        for key in ("UA", "natural"):
            ends = own["intervals"].get(key)
            cells += [figure(own[key]), f"{ends[0]:.0f}–{ends[1]:.0f}" if ends else "-"]
        table.add_row(Text(printable(name)), *cells, str(own["pictures"]))
    return table


def contents_tables(contents) -> list[Table]:
    """What `semu inspect` shows of a `contents.Contents`: its facts, ranks over the depth, and scores."""
    facts = Table(show_header=False, box=None)
    for key in FACTS:
        value = contents.about.get(key)
        if value not in (None, "", [], {}):
            facts.add_row(Text(key, style="bold"), Text(printable(value)))
    depth = Table("block", "layers", "rank", "mean rank", box=None, header_style="bold")
    energy = {}
    for name, share in contents.energy.items():
        energy.setdefault(block_of(name), []).append(share)
    if energy:
        depth.add_column("energy kept")
    blocks = by_depth(contents.ranks)
    for block, count, bar in depth_bars(contents.ranks):
        own = energy.get(block, [])
        share = [f"{sum(own) / len(own):.0%}" if own else "-"] if energy else []
        depth.add_row(Text(printable(block)), str(count), f"{min(blocks[block])}-{max(blocks[block])}", bar, *share)
    tables = [facts] if facts.row_count else []
    tables += [header_table(contents.header)] if contents.header else []
    tables += [depth] if contents.ranks else []
    if {"base", "erased"} <= contents.scores.keys():
        meanings = [(key, "") for key in contents.scores["erased"]]
        tables.append(metrics_table(contents.scores["base"], contents.scores["erased"], meanings))
    return tables


def header_table(header: dict[str, str]) -> Table:
    """What a LoRA file tells other programs, by field; its own facts are shown before."""
    table = Table("header", Column(overflow="fold"), box=None, header_style="bold")  # a hash is read to its end
    for key, value in header.items():
        if key.removeprefix("semu.") not in FACTS:
            table.add_row(Text(printable(key)), Text(printable(value) or "(none)"))
    return table


def interference_tables(names: list[str], matrices: dict[str, list[list[float]]]) -> list[Table]:
    """One table per matrix of `adapter.merging.interference`."""
    tables = []
    for key, title in INTERFERENCE.items():
        table = Table("", *names, title=title, box=None, header_style="bold", title_justify="left")
        for name, row in zip(names, matrices[key]):
            table.add_row(name, *(f"{value:.2f}" for value in row))
        tables.append(table)
    return tables


def fusion_table(fusion: dict) -> Table:
    """What all adapters at once, and their fusion, do on the records of each one and on what must stay."""
    table = Table("on the inputs of", "all at once", "fused", "", box=None, header_style="bold")
    for name, before in fusion["stack"]["error"].items():
        cells = (f"{value:.0%}" for value in (before, fusion["fused"]["error"][name]))
        table.add_row(Text(printable(name)), *cells, "of its effect is another than alone")
    kept = (f"{fusion[side]['kept']:.0%}" for side in ("stack", "fused"))
    table.add_row("all else", *kept, "of such an effect where there should be none")
    return table
