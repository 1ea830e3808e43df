"""An adapter on its model, and the folder that an evaluation of it goes to."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from .errors import resumable
from .groups import keyword, taking
from .loading import Loading
from .options import (
    Concepts,
    Device,
    Json,
    Model,
    Overwrite,
    Quiet,
    Scale,
    check_scale,
    open_pipeline,
    output_folder,
)

RESUMABLE = ("base", "erased")  # folders that an interrupted evaluation leaves


@dataclass(frozen=True)
class Run:
    """What is told to all that measures an adapter: on which model, how strong, where to, and how to speak.

    The annotated fields are shell options of each such command (`takes_run`).
    """

    adapter: str | None = None
    output: Path | None = None
    model: Model = "pictograms"
    concept: Concepts = None
    scale: Scale = 1.0
    overwrite: Overwrite = False
    device: Device = None
    as_json: Json = False
    quiet: Quiet = False
    loading: Loading = field(default_factory=Loading)

    def __post_init__(self) -> None:
        check_scale(self.scale)


def run_options() -> dict[str, inspect.Parameter]:
    """The annotated fields of `Run` as options."""
    hints = typing.get_type_hints(Run, include_extras=True)
    own = [f for f in fields(Run) if typing.get_origin(hints[f.name]) is typing.Annotated]
    return {f.name: keyword(f.name, hints[f.name], f.default) for f in own}


takes_run = taking("run", run_options(), Run)


@contextmanager
def prepared(output: Path, overwrite: bool) -> Iterator[None]:
    """Holds an output folder that is new, empty, to be overwritten, or left by an interrupted evaluation."""
    from ..adapter.claims import claimed
    from ..evaluation.drawing import team

    with resumable(lambda: "the same command goes on" if begun(output) else "nothing was drawn yet; run it again"):
        if not team().is_main_process:
            yield
            return
        prepare(output, overwrite)
        with claimed(output):
            yield


def begun(output: Path) -> bool:
    """Whether a folder holds pictures of an evaluation."""
    from ..evaluation.drawing import MADE_BY

    return any((output / side / MADE_BY).is_file() for side in RESUMABLE)


def prepare(output: Path, overwrite: bool) -> None:
    """Checks the output folder, and takes away what an evaluation to be overwritten drew."""
    from ..adapter.claims import remove_files
    from ..evaluation.drawing import PICTURES

    if overwrite or not begun(output) or (output / "evaluation.json").exists():
        output_folder(output, overwrite)
    if overwrite:
        (output / "evaluation.json").unlink(missing_ok=True)
        for side in RESUMABLE:
            remove_files(output / side, PICTURES)


def open_adapted(run: Run):
    """The pipeline with the adapter on it, the adapter's local place, and what it says about itself."""
    from ..diffusion.pipeline import load_adapter
    from ..hub.transfer import local

    if run.adapter is None:
        raise ValueError("missing argument ADAPTER: the folder that `semu erase` wrote, or user/name")
    pipe = open_pipeline(run.model, run.device, run.loading)
    place = local(run.adapter)
    return pipe, place, load_adapter(pipe, place, scale=run.scale)
