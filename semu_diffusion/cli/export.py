"""`semu export`: an adapter in a format that other programs load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .loading import Loading, loads_model
from .options import Adapter, Model, Overwrite, check_scale, open_pipeline, output_folder
from .terminal import tell


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
    precision: Annotated[
        str | None,
        typer.Option(help="fp16, bf16 or fp32; native also int8, its default. LoRA: fp16, whole models: their own."),
    ] = None,
    all_layers: Annotated[
        bool, typer.Option("--all-layers", help="Keep layers in a kohya file that some programs pass over.")
    ] = False,
    scale: Annotated[float, typer.Option(help="Strength that is written.")] = 1.0,
    overwrite: Overwrite = False,
    *,
    loading: Loading,
) -> None:
    """Write an adapter in a format that other programs load.

    semu export no-cigarette --to kohya --output for-comfyui
    """
    from ..adapter.claims import check_space, claimed, filled
    from ..diffusion.export import FORMATS, WHOLE, compress_measured, rounding
    from ..diffusion.export import export as write
    from ..diffusion.memory import pipeline_bytes
    from ..hub.loaders import load_adapter

    check_scale(scale)
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}; known: {', '.join(FORMATS)}")
    if to == "native" and scale != 1:
        raise ValueError("a native adapter is written at full strength; give --scale where it is loaded")
    output_folder(output, overwrite)
    with claimed(output):
        pipe = open_pipeline(model, None, loading, whole=to == "merged")
        load_adapter(pipe, adapter, scale=scale)
        if compress is not None:
            print(f"compressed: {compress_measured(pipe, compress)}", file=sys.stderr)
        if to not in WHOLE and precision != "fp32":
            kept = precision or ("int8" if to == "native" else "fp16")
            lost = rounding(pipe, to, kept)
            tell(f"written in {kept}: relative error of the update {lost:.1g}")
        if to in WHOLE:
            check_space(output, pipeline_bytes(pipe) / (2 if precision in ("fp16", "bf16") else 1), "the whole model")
        with filled(output) as part:
            written = write(pipe, part, to, uniform_rank, precision=precision, everything=all_layers, warn=tell)
    print(output / written.relative_to(part))
