"""What a suite over prompts is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..scores import COMMON


@dataclass(frozen=True)
class Suite:
    """What a suite draws and how its pictures become figures; a new one is a file here and a line in `SUITES`.

    Args:
        figures: (key, meaning) of the figures that are its own, for tables; every suite also has `COMMON`.
        row: (records, config) -> a model's own figures, `scores.complete` adds the common ones.
        judges: (config, CLIP encoder or None, shots, device) -> the judges that look at every picture.
        prompts: (config, pipe) -> what is drawn where no --prompts are given; None where they must be.
        concepts: (config, pipe) -> what is erased, as the labels have it.
        notes: (config, pipe) -> what is left out of it and why, one sentence each.
        labelled: prompts are divided by their label into forgotten and kept ones; else all of them are forgotten.
        lpips: erased pictures are also compared with the base model's by LPIPS.
        also: --prompts are drawn beside the suite's own instead of in their place.
    """

    name: str
    figures: list[tuple[str, str]]
    row: Callable[..., dict]
    judges: Callable[..., list]
    prompts: Callable[..., list] | None = None
    concepts: Callable[..., list[str]] = lambda config, pipe: config.concept
    notes: Callable[..., list[str]] = lambda config, pipe: []
    labelled: bool = True
    lpips: bool = False
    also: bool = False

    @property
    def rows(self) -> list[tuple[str, str]]:
        """(key, meaning) of all figures, for its table."""
        return [*self.figures, *COMMON]
