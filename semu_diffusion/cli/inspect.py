"""`semu inspect`: what is in an adapter file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .terminal import LONG, printable, tell


def show(
    adapter: Annotated[str, typer.Argument(help="Adapter folder, user/name, or .safetensors file in any format.")],
    output: Annotated[Path | None, typer.Option(help="Also draw the ranks over the depth into this .png file.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is in an adapter file: what it erases, ranks by depth, energy, bytes, scores.

    semu inspect no-cigarette
    """
    from rich.console import Console

    from ..hub.contents import read_contents
    from ..hub.transfer import local
    from .display import contents_tables

    contents = read_contents(local(adapter))
    if output is not None:
        from ..evaluation.adapter_charts import rank_chart

        rank_chart(contents.ranks, output)
    if as_json:
        print(json.dumps(contents.to_dict()))
        return
    print(printable(contents.headline(), LONG))
    for note in contents.notes:
        tell(note)
    for table in contents_tables(contents):
        Console().print(table)
    if output is not None:
        print(output)
