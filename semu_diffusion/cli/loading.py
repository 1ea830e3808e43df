"""The options with which every command loads a model: one per field of `Loading`, in a panel of their own."""

from __future__ import annotations

import inspect
import typing
from dataclasses import fields
from typing import Annotated

import typer

from ..diffusion.loading import Loading
from .groups import keyword, taking

PANEL = "Loading the model"


def loading_options() -> dict[str, inspect.Parameter]:
    """One shell option per field of `Loading`."""
    hints, parameters = typing.get_type_hints(Loading), {}
    for f in fields(Loading):
        main = f.name == "dtype"
        spec = typer.Option(
            f"--{f.name.replace('_', '-')}",
            help=f.metadata["help"],
            rich_help_panel=None if main else PANEL,
            show_default=f.default not in (None, False, "auto"),
            metavar="TYPE" if main else None,
        )
        parameters[f.name] = keyword(f.name, Annotated[hints[f.name], spec], f.default)
    return parameters


def take_loading(options: dict) -> Loading:
    """Takes the fields of `Loading` out of a command's options."""
    return Loading(**{f.name: options.pop(f.name) for f in fields(Loading)})


loads_model = taking("loading", loading_options(), Loading)
