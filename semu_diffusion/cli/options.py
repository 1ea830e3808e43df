"""What the shell commands share: their common options, and how they open models and folders."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..diffusion.loading import Loading

Model = Annotated[str, typer.Option(help="Folder or Hub id; default: pictograms.", metavar="NAME", show_default=False)]
ADAPTER = "Adapter folder, its .safetensors file, or user/name."
Adapter = Annotated[str, typer.Argument(help=ADAPTER, show_default=False)]
MaybeAdapter = Annotated[str | None, typer.Argument(help=ADAPTER, show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Scale = Annotated[float, typer.Option(help="Strength of the adapter; 0 is the base model.")]
Repo = Annotated[str, typer.Argument(help="Repository on the Hub: user/name.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda:1, mps; default: a GPU if any.", metavar="NAME")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Concepts = Annotated[
    list[str] | None, typer.Option("--concept", help="What was erased; default: what the adapter says.")
]
Seed = Annotated[int, typer.Option(help="Seed of the first picture; the next ones count up.")]


def quieten() -> None:
    """No progress bars and notices of the libraries between our own lines."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity(logging.CRITICAL)  # what goes wrong, we say ourselves
        library.utils.logging.disable_progress_bar()


def open_pipeline(model: str, device: str | None, loading: Loading, **options):
    """The pipeline at `--model`; the options are those of `load_pipeline`."""
    from ..diffusion import load_pipeline

    quieten()
    return load_pipeline(model, device, loading=loading, **options)


def output_folder(folder: Path, overwrite: bool) -> Path:
    """An output folder that is new, empty, or ours and to be overwritten."""
    from ..adapter.claims import BEGUN, check_output

    return check_output(folder, overwrite, "--resume to go on" if (folder / BEGUN).is_file() else "another --output")


def check_scale(scale: float) -> None:
    """A strength that makes sense; NaN does not."""
    if not 0 <= scale < float("inf"):
        raise ValueError(f"scale must be a number of at least 0, got {scale}")


def display(quiet: bool):
    """The progress display, or a silent one."""
    from ..callbacks import Callback

    if quiet:
        return nullcontext(Callback())
    from .display import Display

    return Display()


def print_report(report: dict | None, as_json: bool) -> None:
    """The table of a suite, or JSON, on stdout."""
    from rich.console import Console

    from ..evaluation.suites.pictograms import ROWS
    from .display import metrics_table

    if as_json:
        print(json.dumps(report))
    elif report:
        Console().print(metrics_table(report["base"], report["erased"], ROWS))
