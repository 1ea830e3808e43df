"""The options with which every command loads a model: one per field of `Loading`, in a panel of their own."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated

import typer

from ..diffusion.loading import Loading

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
        parameters[f.name] = inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=Annotated[hints[f.name], spec]
        )
    return parameters


def take_loading(options: dict) -> Loading:
    """Takes the fields of `Loading` out of a command's options."""
    return Loading(**{f.name: options.pop(f.name) for f in fields(Loading)})


def loads_model(command: Callable) -> Callable:
    """Gives a command the options of `Loading`, which it gets as one argument `loading`."""

    @functools.wraps(command)
    def run(**options):
        return command(loading=take_loading(options), **options)

    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in inspect.signature(command).parameters.values()
        if p.name != "loading"
    ]
    run.__signature__ = inspect.Signature([*own, *loading_options().values()])
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}
    return run
