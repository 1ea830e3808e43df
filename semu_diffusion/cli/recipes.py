"""`semu recipes`: ready choices for what people erase."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from .options import Json

Name = Annotated[str | None, typer.Argument(help="Show this one's file, to be changed and given to --config.")]


def recipes(name: Name = None, as_json: Json = False) -> None:
    """List recipes for `semu erase --config recipe:NAME`.

    semu recipes nudity > mine.yaml
    """
    from ..diffusion.recipes import FOLDER, PREFIX, families, recipe_of
    from ..diffusion.recipes import recipes as all_of_them

    if name is not None:
        recipe = recipe_of(PREFIX + name.removeprefix(PREFIX))
        print(json.dumps(asdict(recipe)) if as_json else (FOLDER / f"{recipe.name}.yaml").read_text(), end="")
        return
    found, models = all_of_them(), {family: own["models"] for family, own in families().items()}
    if as_json:
        print(json.dumps({"recipes": {key: asdict(recipe) for key, recipe in found.items()}, "models": models}))
        return
    print_recipes(found, models)


def print_recipes(found: dict, models: dict[str, list[str]]) -> None:
    """The recipes, the models they were written for, and how to run one."""
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "erases", "evaluation", box=None, header_style="bold")
    for key, recipe in found.items():
        table.add_row(key, recipe.about, ", ".join(suites(recipe.evaluate)))
    console = Console()
    console.print(table)
    console.print("written for", ", ".join(name for names in models.values() for name in names), highlight=False)
    console.print("semu erase --config recipe:nudity --model NAME --output DIR", highlight=False)


def suites(commands: list[str]) -> list[str]:
    """The suites that evaluation commands run."""
    words = [command.split() for command in commands]
    return [line[line.index("--suite") + 1] for line in words]
