"""`semu pull`: an adapter from the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Repo


def pull(
    repo: Repo,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download an adapter from the Hugging Face Hub; prints its local folder.

    semu pull user/no-cigarette
    """
    from ..hub.transfer import pull as download

    print(download(repo, revision))
