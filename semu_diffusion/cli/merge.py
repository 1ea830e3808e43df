"""`semu merge`: several adapters into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .loading import Loading, loads_model
from .options import Json, Model, Overwrite, Quiet, display, open_pipeline, output_folder
from .terminal import tell


@loads_model
def merge(
    adapters: Annotated[list[str], typer.Argument(help="Two or more adapters of one base model.")],
    output: Annotated[Path, typer.Option(help="Folder for the one adapter; new or empty.")],
    model: Model = "pictograms",
    weight: Annotated[list[float] | None, typer.Option(help="One for each adapter; default: 1. Repeatable.")] = None,
    way: Annotated[
        str, typer.Option(help="fuse (each does its own, and little else), or sum (all of them added up).")
    ] = "fuse",
    energy: Annotated[
        float | None,
        typer.Option(help="Truncate each layer to this share of its energy; default: 0.95, of a sum 1."),
    ] = None,
    precision: Annotated[str, typer.Option(help="What files hold: int8, fp16, bf16 or fp32.")] = "int8",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    loading: Loading,
) -> None:
    """Make one of adapters of one base model, and say how far they get in each other's way before and after.

    semu merge no-cigarette no-wine --output both
    """
    from rich.console import Console

    from ..adapter.claims import claimed, filled
    from ..adapter.weights import WEIGHTS
    from ..diffusion.merging import merge_adapters
    from ..diffusion.multi_adapter import short_names
    from ..diffusion.results import remove_reports
    from ..evaluation.adapter_charts import fusion_chart, interference_chart
    from ..hub.card import write_card
    from ..hub.transfer import local
    from .display import fusion_table, interference_tables

    if len(adapters) < 2:
        raise ValueError("give two or more adapters to merge")
    output_folder(output, overwrite)
    with claimed(output):
        pipe = open_pipeline(model, None, loading)
        names = short_names(adapters)
        with filled(output) as part:
            places = [local(a) for a in adapters]
            with display(quiet or as_json) as callback:
                how = {"way": way, "precision": precision, "callback": callback}
                results = merge_adapters(pipe, places, part, weight, energy, model, names, tell, **how)
            interference_chart(names, results["interference"], part / "interference.png")
            if "fusion" in results:
                fusion_chart(results["fusion"], part / "fusion.png")
            write_card(part, results)
            remove_reports(output)
    if as_json:
        print(json.dumps(results))
        return
    for table in interference_tables(results["merged"], results["interference"]):
        Console().print(table)
    if "fusion" in results:
        Console().print(fusion_table(results["fusion"]))
    size = sum(file.stat().st_size for file in output.rglob(WEIGHTS))  # text encoders have folders of their own
    print(f"{output}: {results['layers']} layers, ranks sum to {results['ranks']}, {size:,} bytes")
