"""Ready choices for what people erase, by name: YAML files of this package, each with its evaluation."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from .config import EraseConfig

FOLDER = Path(__file__).parents[1] / "recipes"
FAMILIES = "families"  # the file with what all recipes of a family share
PREFIX = "recipe:"


@dataclass(frozen=True)
class Recipe:
    """One file of `semu_diffusion/recipes`.

    Args:
        about: What it erases and what is drawn instead.
        sources: The papers that its settings and its evaluation are from.
        options: Of `semu erase`, for every model.
        families: The class name of a family -> options for its models alone.
        evaluate: Commands, with {output}, {model} and {recipes} to be filled in.
    """

    name: str
    about: str
    sources: list[str]
    options: dict
    evaluate: list[str]
    families: dict[str, dict] = field(default_factory=dict)

    def config(self, family: str | None = None, **given) -> EraseConfig:
        """Its choices for a family's models; what is given beside it takes precedence, then the family's own.

        Raises:
            ValueError: as `EraseConfig`.
        """
        shared = families().get(family, {}).get("options", {})
        return EraseConfig(**{**self.options, **shared, **self.families.get(family, {}), **given})

    def commands(self, model: str, output: str | Path) -> list[str]:
        """What to type for the evaluation of an erasure in a folder."""
        places = {"output": output, "model": model, "recipes": FOLDER}
        places = {name: shlex.quote(str(place)) for name, place in places.items()}
        return [command.format(**places) for command in self.evaluate]


def recipes() -> dict[str, Recipe]:
    """All of them by name."""
    names = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != FAMILIES)
    return {name: Recipe(name, **_read(name)) for name in names}


def recipe_of(source: str | Path) -> Recipe | None:
    """The recipe of "recipe:nudity"; None for anything that is not called so.

    Raises:
        ValueError: no recipe of that name; lists those there are.
    """
    if not str(source).startswith(PREFIX):
        return None
    name, known = str(source).removeprefix(PREFIX).strip().lower(), recipes()
    if name not in known:
        raise ValueError(f"no recipe {name!r}; known: {', '.join(known)} (semu recipes)")
    return known[name]


def families() -> dict[str, dict]:
    """Class name of a family -> {"models": names on the Hub, "options": what all recipes run with on them}."""
    return _read(FAMILIES)


def _read(name: str) -> dict:
    import yaml

    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
