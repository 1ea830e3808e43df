"""The app and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from ..messages import DEBUG
from .attack import attack
from .classify import classify
from .doctor import doctor
from .erase import erase
from .evaluate import evaluate
from .export import export
from .generate import generate
from .inspect import show
from .merge import merge
from .models import models
from .page import page
from .prompts import prompts
from .pull import pull
from .push import push
from .recipes import recipes
from .report import report

ABOUT = "Erase concepts from diffusion models with small adapters (SEMU)."
COMMANDS = {
    "Erase": {"erase": erase, "prompts": prompts, "classify": classify},
    "Look and measure": {"generate": generate, "eval": evaluate, "report": report, "attack": attack, "app": page},
    "Ship": {"inspect": show, "export": export, "merge": merge, "push": push, "pull": pull},
    "About": {"models": models, "recipes": recipes, "doctor": doctor},
}

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)


def show_version(wanted: bool) -> None:
    """The version on stdout, and nothing else."""
    if wanted:
        print(f"semu {__version__}")
        raise typer.Exit()


@app.callback(help=ABOUT)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show where an error came from; may stand anywhere.")] = False,
) -> None:
    pass
