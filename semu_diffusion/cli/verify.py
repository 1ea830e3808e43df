"""`semu eval --verify`: whether recorded figures can be had again."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import typer

from .adapted import Run, open_adapted, prepare
from .options import display
from .terminal import LONG, printable


def verify_command(run: Run, results: Path | None) -> None:
    """Table and exit status of `--verify`. The pictures of a finished evaluation are refused: they would only agree."""
    from ..diffusion.pipeline import EMBEDDED
    from ..evaluation.drawing import team
    from ..evaluation.verification import read_results
    from ..evaluation.verification import verify as measure

    if run.adapter is None:
        raise ValueError("missing argument ADAPTER: the folder that `semu eval` measured, or user/name")
    recorded = read_results(results or run.adapter)
    if "erased" not in recorded["evaluation"]:
        raise ValueError("these results are of a folder of pictures, so there is no adapter to verify")
    scale = (recorded.get("adapter") or {}).get("scale", 1.0)
    model = recorded.get("base_model") or run.model if run.model == EMBEDDED else run.model
    if run.output is not None:
        prepare(run.output, run.overwrite)
    pipe, place, _ = open_adapted(replace(run, scale=scale, model=model))
    processes = team()
    if run.output is None and processes.num_processes > 1:
        raise ValueError("several processes need one folder to draw into: give --output")
    with tempfile.TemporaryDirectory() as temporary, display(run.quiet or not processes.is_main_process) as callback:
        verdicts, notes = measure(pipe, place, recorded, run.output or Path(temporary), callback)
    if processes.is_main_process:
        show_verdicts(verdicts, notes, run.as_json)
    if any(verdict.agrees is False for verdict in verdicts):
        raise typer.Exit(1)


def show_verdicts(verdicts, notes: list[str], as_json: bool) -> None:
    """Each figure as recorded and as measured again."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps({"figures": [v._asdict() for v in verdicts], "differences": notes}))
        return
    words = {True: "agrees", False: "differs", None: "no interval"}
    number = lambda v: "-" if v is None else f"{v:.4g}"  # noqa: E731
    table = Table("", "figure", "recorded", "interval", "measured", "", box=None, header_style="bold")
    for v in verdicts:
        ends = "-" if v.interval is None else " to ".join(map(number, v.interval))
        table.add_row(v.side, v.figure, number(v.recorded), ends, number(v.measured), words[v.agrees])
    Console().print(table)
    for note in notes:
        print(f"note: {printable(note, LONG)}")
