"""`semu app`: a page to look, erase, measure and share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .loading import Loading, loads_model
from .options import ADAPTER, Device, Model


@loads_model
def page(
    adapters: Annotated[list[str] | None, typer.Argument(help=f"To begin with. {ADAPTER}", show_default=False)] = None,
    model: Model = "pictograms",
    folder: Annotated[Path, typer.Option(help="Where what is erased on the page is kept.", metavar="DIR")] = Path(
        "adapters"
    ),
    host: Annotated[str, typer.Option(help="Address to serve on; others than this machine's are served ids only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860.", show_default=False)] = None,
    share: Annotated[bool, typer.Option("--share", help="Also at a public address, through Gradio's tunnel.")] = False,
    export_space: Annotated[
        Path | None, typer.Option(help="Write the files of a Hugging Face Space instead.", metavar="DIR")
    ] = None,
    device: Device = None,
    *,
    loading: Loading,
) -> None:
    """Open a page to look, erase, measure and share; needs the extra `app`.

    semu app no-cigarette
    """
    if export_space is not None:
        from ..app.space import export_space as write

        print(write(export_space, model))
        return
    from ..app.desk import Model as Choice
    from ..app.page import launch, library

    library()
    launch(Choice(model, device, loading), places(adapters or []), folder, host, port, share)


def places(adapters: list[str]) -> dict[str, Path]:
    """Name -> local place of the adapters to begin with. ValueError where one is not there."""
    if not adapters:
        return {}
    from ..diffusion.multi_adapter import short_names
    from ..hub.contents import read_contents
    from ..hub.transfer import local

    found = {name: local(path) for name, path in zip(short_names(adapters), adapters)}
    for place in found.values():
        read_contents(place)  # says what is wrong with it
    return found
