"""`semu export`: an adapter in a format that other programs load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .loading import Loading, loads_model
from .options import Adapter, Model, Overwrite, check_scale, open_pipeline, output_folder


@loads_model
def export(
    adapter: Adapter,
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    model: Model = "pictograms",
    to: Annotated[
        str,
        typer.Option(
            help="native, diffusers (LoRA), kohya (ComfyUI, A1111), merged (a whole diffusers model) or single-file "
            "(a whole model for ComfyUI and A1111)."
        ),
    ] = "diffusers",
    compress: Annotated[
        float | None, typer.Option(help="First truncate the update to this share of its energy.")
    ] = None,
    uniform_rank: Annotated[bool, typer.Option("--uniform-rank", help="Pad ranks, for diffusers before 0.36.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Write a single file in fp16.")] = False,
    scale: Annotated[float, typer.Option(help="Strength that is written.")] = 1.0,
    overwrite: Overwrite = False,
    *,
    loading: Loading,
) -> None:
    """Write an adapter in a format that other programs load.

    semu export no-cigarette --to kohya --output for-comfyui
    """
    from ..diffusion.export import FORMATS, compress_measured
    from ..diffusion.export import export as write
    from ..hub.loaders import load_adapter

    check_scale(scale)
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}; known: {', '.join(FORMATS)}")
    if to == "native" and scale != 1:
        raise ValueError("a native adapter is written at full strength; give --scale where it is loaded")
    output_folder(output, overwrite)
    pipe = open_pipeline(model, None, loading, whole=to == "merged")
    load_adapter(pipe, adapter, scale=scale)
    if compress is not None:
        print(f"compressed: {compress_measured(pipe, compress)}", file=sys.stderr)
    print(write(pipe, output, to, uniform_rank, half=half))
