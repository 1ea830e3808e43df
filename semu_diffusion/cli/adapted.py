"""An adapter on its model, and the folder that an evaluation of it goes to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .loading import Loading
from .options import open_pipeline, output_folder

RESUMABLE = ("base", "erased")  # folders that an interrupted evaluation leaves


@dataclass(frozen=True)
class Run:
    """What every evaluation is told: which adapter, how strong, on which model, where to, and how to speak."""

    adapter: str | None
    output: Path | None
    model: str
    scale: float
    overwrite: bool
    device: str | None
    loading: Loading
    as_json: bool
    quiet: bool


def prepare(output: Path, overwrite: bool) -> None:
    """An output folder that is new, empty, to be overwritten, or left by an interrupted evaluation."""
    from ..evaluation.drawing import MADE_BY, team

    if not team().is_main_process:
        return
    begun = any((output / side / MADE_BY).is_file() for side in RESUMABLE) and not (output / "evaluation.json").exists()
    if not begun or overwrite:
        output_folder(output, overwrite)
    if overwrite:
        for side in RESUMABLE:
            if (output / side / MADE_BY).is_file():
                shutil.rmtree(output / side)
        (output / "evaluation.json").unlink(missing_ok=True)


def open_adapted(run: Run):
    """The pipeline with the adapter on it, the adapter's local place, and what it says about itself."""
    from ..diffusion.pipeline import load_adapter
    from ..evaluation.drawing import own_device
    from ..hub.transfer import local

    if run.adapter is None:
        raise ValueError("missing argument ADAPTER: the folder that `semu erase` wrote, or user/name")
    pipe = open_pipeline(run.model, own_device(run.device), run.loading)
    place = local(run.adapter)
    return pipe, place, load_adapter(pipe, place, scale=run.scale)
