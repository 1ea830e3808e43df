"""What erases a class: ours in its settings, and those peers that need no text, as `eval.peers.diffusion` has them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from ..peers.diffusion import METHODS, SHARED


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method of `METHODS` with choices of its own.

    like: The entry whose searched setting it takes over, so that only the choices differ.
    retains: Whether half of what it keeps are real pictures; all others keep what the model itself draws, or nothing.
    wider: What is tried with its best setting, too.
    """

    title: str
    method: str
    choices: dict = field(default_factory=dict)
    like: str = ""
    retains: bool = False
    wider: tuple[dict, ...] = ()


# A class is one prompt, whose gradient has less in it than that of many: `gamma` of it leaves a small basis.
WIDER = ({"gamma": 0.97, "max_rank": 64}, {"gamma": 0.99, "max_rank": 128})

# A class has no sentences: peers learn from pairs of classes, as ours does. SalUn and SEMU as published draw another
# class instead, at random; all others, the class that stands for none, where nothing else is said.
ENTRIES = {
    "ours": Entry("ours", "ours-remain", wider=WIDER),
    "ours-next": Entry("ours, as the next class", "ours-remain", {"anchor": "next"}, "ours"),
    "ours-random": Entry("ours, as any other class", "ours-remain", {"anchor": "random"}, "ours"),
    "ours-retain": Entry("ours, half of what is kept real", "ours-remain", {}, "ours", retains=True),
    "ours-free": Entry("ours, nothing kept", "ours-remain-free", wider=WIDER),
    "salun": Entry("SalUn", "salun"),
    "sfr-on": Entry("SFR-on", "sfr-on"),
    "selective-amnesia": Entry("Selective Amnesia", "selective-amnesia"),
    "full": Entry("full fine-tuning, our loss", "full"),
    "semu-published": Entry("SEMU as published", "semu-published", {"keep_weight": 1.0}),
    "semu-published-free": Entry("SEMU as published, nothing kept", "semu-published", {"keep_weight": 0.0}),
}


def settings(name: str) -> list[dict]:
    """Every setting of an entry that is tried, with its own choices in place of what these fix."""
    entry = ENTRIES[name]
    own = METHODS[entry.method]
    grid = {key: values for key, values in own.search.items() if key not in entry.choices}
    prompts = {"prompts": SHARED} if own.prompts else {}
    return [{**prompts, **dict(zip(grid, values)), **entry.choices} for values in itertools.product(*grid.values())]
