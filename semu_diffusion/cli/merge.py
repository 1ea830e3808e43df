"""`semu merge`: several adapters into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .loading import Loading, loads_model
from .options import Json, Model, Overwrite, open_pipeline, output_folder
from .terminal import tell


@loads_model
def merge(
    adapters: Annotated[list[str], typer.Argument(help="Two or more adapters of one base model.")],
    output: Annotated[Path, typer.Option(help="Folder for the one adapter; new or empty.")],
    model: Model = "pictograms",
    weight: Annotated[list[float] | None, typer.Option(help="One for each adapter; default: 1. Repeatable.")] = None,
    energy: Annotated[float, typer.Option(help="Truncate each layer's sum to this share of its energy.")] = 1.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Combine adapters of one base model into one, and say how far they get in each other's way.

    semu merge no-cigarette no-wine --output both
    """
    from rich.console import Console

    from ..adapter.claims import claimed, filled
    from ..adapter.weights import WEIGHTS
    from ..diffusion.merging import merge_adapters
    from ..diffusion.multi_adapter import short_names
    from ..diffusion.results import remove_reports
    from ..evaluation.adapter_charts import interference_chart
    from ..hub.card import write_card
    from ..hub.transfer import local
    from .display import interference_tables

    if len(adapters) < 2:
        raise ValueError("give two or more adapters to merge")
    output_folder(output, overwrite)
    with claimed(output):
        pipe = open_pipeline(model, None, loading)
        names = short_names(adapters)
        with filled(output) as part:
            results = merge_adapters(pipe, [local(a) for a in adapters], part, weight, energy, model, names, tell)
            interference_chart(names, results["interference"], part / "interference.png")
            write_card(part, results)
            remove_reports(output)
    if as_json:
        print(json.dumps(results))
        return
    for table in interference_tables(results["merged"], results["interference"]):
        Console().print(table)
    size = sum(file.stat().st_size for file in output.rglob(WEIGHTS))  # text encoders have folders of their own
    print(f"{output}: {results['layers']} layers, ranks sum to {results['ranks']}, {size:,} bytes")
