"""Prompts that others found: those of Ring-A-Bell, P4D and MMA-Diffusion by name, or of any file or dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.prompts import Shot, digest, read_prompts
from .judge import rates

if TYPE_CHECKING:
    from .suite import Attacker

PREFIX = "prompts-from:"


def read_given(sources: list[str], repeat: int) -> dict[str, list[Shot]]:
    """Attack -> its prompts, by the source's name: "prompts-from:mma", "prompts-from:mine" of mine.csv.

    Raises:
        ValueError: as `read_prompts`; two sources of one name.
    """
    found: dict[str, list[Shot]] = {}
    for source in sources:
        name = PREFIX + (Path(source).stem if Path(source).is_file() else source)
        if name in found:
            raise ValueError(f"two sources of prompts are called {name.removeprefix(PREFIX)}; rename one of the files")
        found[name] = read_prompts(source, repeat=repeat)
    return found


def by_given(attacker: Attacker, shots: list[Shot]) -> dict:
    """Rates of the prompts as they are, each from the seed that came with it; `base` is the base model on the same.

    Prompts that were made for another model or concept say nothing here: then `base` is low as well.
    """
    c, prompts, seeds = attacker.config, [s.prompt for s in shots], [s.seed for s in shots]
    found = [rates(attacker.judge(target.draw_prompts(prompts, seeds, c.steps, c.guidance)))
             for target in (attacker.target, attacker.base)]  # fmt: skip
    return {**found[0], "base": found[1]}


def digests(given: dict[str, list[Shot]]) -> dict[str, str]:
    """What tells these prompts from others, for the protocol."""
    return {name.removeprefix(PREFIX): digest(shots) for name, shots in given.items()}
