"""`semu report`: one HTML page about a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `semu erase` or `semu eval` wrote.")],
    images: Annotated[
        Path | None, typer.Option(help="Also show pictures of this folder, which eval --images judged.", metavar="DIR")
    ] = None,
    blur: Annotated[bool, typer.Option(help="Cover pictures that NudeNet flags until they are clicked.")] = True,
) -> None:
    """Write one self-contained report.html: pictures before and after, figures, ranks, protocol."""
    from ..evaluation.report import write_report_page

    print(write_report_page(folder, blur, images))
