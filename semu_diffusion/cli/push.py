"""`semu push`: an adapter to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Repo


def push(
    folder: Annotated[Path, typer.Argument(help="A folder that semu erase or semu merge wrote.")],
    repo: Repo,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of pushing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub in one commit.

    semu push no-cigarette user/no-cigarette
    """
    from ..hub.transfer import push_to_hub, to_push

    if dry_run:
        files = to_push(folder, repo)
        for name, content in files.items():
            print(f"{len(content) if isinstance(content, bytes) else content.stat().st_size:>12,}  {name}")
        return
    print(push_to_hub(folder, repo, private, revision, create_pr))
