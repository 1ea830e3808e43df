"""`semu eval --verify`: whether recorded figures can be had again."""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import typer

from .adapted import Run, open_adapted, prepared
from .options import display
from .terminal import LONG


def verify_command(run: Run, results: Path | None, classifier: str | None = None, clip: str | None = None) -> None:
    """Table and exit status of `--verify`. The pictures of a finished evaluation are refused: they would only agree."""
    from ..evaluation.drawing import team
    from ..evaluation.verification import read_results, scale_of
    from ..evaluation.verification import verify as measure

    if run.adapter is None:
        raise ValueError("missing argument ADAPTER: the folder that `semu eval` measured, or user/name")
    recorded = read_results(results or run.adapter)
    if "erased" not in recorded["evaluation"]:
        raise ValueError("these results are of a folder of pictures, so there is no adapter to verify")
    scale = scale_of(recorded)
    check_models(recorded, {"base_model": run.model, "classifier": classifier, "clip": clip})
    processes = team()
    if run.output is None and processes.num_processes > 1:
        raise ValueError("several processes need one folder to draw into: give --output")
    with (
        prepared(run.output, run.overwrite) if run.output else nullcontext(),
        tempfile.TemporaryDirectory() as temporary,
    ):
        pipe, place, _ = open_adapted(replace(run, scale=scale))
        with display(run.quiet or not processes.is_main_process) as callback:
            verdicts, notes = measure(pipe, place, recorded, run.output or Path(temporary), callback)
    if processes.is_main_process:
        show_verdicts(verdicts, notes, run.as_json)
    if any(verdict.agrees is False for verdict in verdicts):
        raise typer.Exit(1)


def check_models(recorded: dict, given: dict[str, str | None]) -> None:
    """ValueError where results name a model, not one of ours, that the command line does not: files must not choose."""
    from ..diffusion.pipeline import EMBEDDED, SHIPPED
    from ..evaluation.judges import IMAGENET

    protocol = recorded["evaluation"].get("protocol")
    named = {**(protocol if isinstance(protocol, dict) else {}), "base_model": recorded.get("base_model")}
    for key, option in given.items():
        opened = option == EMBEDDED if key == "base_model" else option != named.get(key)
        if opened and named.get(key) not in (None, "", *SHIPPED, IMAGENET):
            flag = "--model" if key == "base_model" else f"--{key}"
            raise ValueError(f"these results were made with {named[key]}; give that with {flag} if you trust it")


def show_verdicts(verdicts, notes: list[str], as_json: bool) -> None:
    """Each figure as recorded and as measured again."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .display import printable

    if as_json:
        print(json.dumps({"figures": [v._asdict() for v in verdicts], "differences": notes}))
        return
    words = {True: "agrees", False: "differs", None: "no interval"}
    number = lambda v: "-" if v is None else f"{v:.4g}"  # noqa: E731
    table = Table("", "figure", "recorded", "interval", "measured", "", box=None, header_style="bold")
    for v in verdicts:
        ends = "-" if v.interval is None else " to ".join(map(number, v.interval))
        table.add_row(v.side, Text(printable(v.figure)), number(v.recorded), ends, number(v.measured), words[v.agrees])
    Console().print(table)
    for note in notes:
        print(f"note: {printable(note, LONG)}")
