"""The app and its commands, of which only those that are run are imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Annotated

import typer

from .. import __version__
from ..messages import DEBUG

ABOUT = "Erase concepts from diffusion models with small adapters (SEMU)."
COMMANDS = {  # panel -> command -> module and function, and what the page of all commands says
    "Erase": {
        "erase": ("erase:erase", "Erase concepts from a model and write the adapter."),
        "prompts": ("prompts:prompts", "Show every prompt that an erasure would use; nothing is erased."),
        "classify": (
            "classify:classify",
            "Make an image classifier forget examples or classes, and compare it with one trained without them.",
        ),
    },
    "Look and measure": {
        "generate": (
            "generate:generate",
            "Draw pictures with an adapter at any strength; without one the base model draws.",
        ),
        "eval": (
            "evaluate:evaluate",
            "Measure what an adapter forgets and what it keeps, beside the base model.",
        ),
        "report": (
            "report:report",
            "Write one self-contained report.html: pictures before and after, figures, ranks, protocol.",
        ),
        "attack": (
            "attack:attack",
            "Attack an erased model: prompts, inversion, images, relearning, file changes.",
        ),
        "app": ("page:page", "Open a page to look, erase, measure and share; needs the extra `app`."),
    },
    "Ship": {
        "inspect": (
            "inspect:show",
            "Say what is in an adapter file: what it erases, ranks by depth, energy, bytes, scores.",
        ),
        "export": ("export:export", "Write an adapter in a format that other programs load."),
        "merge": (
            "merge:merge",
            "Make one of adapters of one base model, and say how far they get in each other's way before and after.",
        ),
        "push": ("push:push", "Upload an adapter to the Hugging Face Hub in one commit."),
        "pull": ("pull:pull", "Download an adapter from the Hugging Face Hub; prints its local folder."),
    },
    "About": {
        "models": (
            "models:models",
            "List embedded models, the families that can be erased from, and what each can be exported as.",
        ),
        "recipes": ("recipes:recipes", "List recipes for `semu erase --config recipe:NAME`."),
        "doctor": (
            "doctor:doctor",
            "Print versions, devices, memory, optional packages, cache and token state, for a bug report.",
        ),
    },
}
NAMES = [name for commands in COMMANDS.values() for name in commands]


def find(place: str) -> Callable:
    """The function at "module:function" of this package."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


def listed() -> None:
    """Stands for a command that is only listed."""


def make_app(names: Collection[str] = NAMES) -> typer.Typer:
    """The app with these commands; the others are listed, and what they need (torch, peft) is not imported."""
    app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback(help=ABOUT)(options)
    for panel, commands in COMMANDS.items():
        for name, (place, about) in commands.items():
            wanted = name in names
            app.command(name, help=None if wanted else about, rich_help_panel=panel)(find(place) if wanted else listed)
    return app


def show_version(wanted: bool) -> None:
    """The version on stdout, and nothing else."""
    if wanted:
        print(f"semu {__version__}")
        raise typer.Exit()


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show where an error came from; may stand anywhere.")] = False,
) -> None:
    pass
