"""Ways to erase a concept from Stable Diffusion, one interface: (pipe, concept, budget, seed, **hyper) -> Edited.

    from peers.diffusion import METHODS, Budget, edit
    edited, facts = edit("uce", pipe, "cigarette", Budget(), seed=0, prompts="shared")

Each peer may be trained twice: on the prompts that its authors use (`own`), and on those that `semu erase` trains on
("shared"). All may run the denoiser equally often. Written from the papers; where a method needs pictures, it gets
those that the model draws itself, so that none has more to go on than another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from semu_diffusion.diffusion.pipeline import denoiser

from . import memory
from .concept_ablation import concept_ablation
from .esd import esd_u, esd_x
from .fade import fade
from .forget_me_not import forget_me_not
from .full import full
from .low_rank import low_rank
from .ours import variant
from .salun import salun
from .selective_amnesia import selective_amnesia
from .semu_published import semu_published
from .sfron import sfron
from .uce import uce
from .work import Budget, Edited, Meter, Work, parameter_count

__all__ = ["METHODS", "ROBUST", "SHARED", "Budget", "Edited", "Method", "Work", "edit"]

# UA / IRA / CRA for styles and for objects, UnlearnCanvas' own leaderboard (SD 1.5, 50 styles x 20 objects).
CANVAS = {
    "ESD": "98.6 / 81.0 / 94.0, 92.2 / 55.8 / 44.2", "UCE": "98.4 / 60.2 / 47.7, 94.3 / 39.4 / 34.7",
    "FMN": "88.5 / 56.8 / 46.6, 45.6 / 90.6 / 73.5", "CA": "60.8 / 96.0 / 92.7, 46.7 / 90.1 / 82.0",
    "SalUn": "86.3 / 90.4 / 95.1, 86.9 / 96.4 / 99.6", "SPM": "60.9 / 92.4 / 84.3, 71.3 / 90.8 / 81.7",
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A way to erase: `edit`, and what the search may choose: two hyper-parameters with three and two values, crossed.

    own: The prompts of its authors, a key of `own.OWN`; "" for methods of this package, which have the shared ones.
    claim: UA / IRA / CRA on UnlearnCanvas, styles then objects, where it lists the method.
    like: The method whose chosen setting it takes over, instead of a search of its own.
    more: What it sets beside that, or otherwise.
    """

    title: str
    paper: str
    edit: Callable[..., Edited]
    own: str = ""
    search: dict[str, tuple] = field(default_factory=dict)
    claim: str = ""
    like: str = ""
    more: dict = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The kinds of prompts that it is trained on, one search each."""
        return (self.own, SHARED) if self.own else ()


SHARED = "shared"
ROBUST = {"adversarial": 1, "strength": 1.0}  # options of `semu erase`; the round comes on top of the budget
SEMU = {"lr": (5e-2, 1e-1, 2e-1), "strength": (0.25, 0.75)}
METHODS = {
    "esd-x": Method(
        "ESD-x", "arXiv 2303.07345", esd_x, "name", {"lr": (5e-5, 1e-4, 3e-4), "strength": (1.0, 2.0)}, CANVAS["ESD"]
    ),
    "esd-u": Method(
        "ESD-u", "arXiv 2303.07345", esd_u, "name", {"lr": (1e-5, 3e-5, 1e-4), "strength": (1.0, 2.0)}
    ),
    "uce": Method(
        "UCE", "arXiv 2308.14761", uce, "expanded", {"keep": (0.1, 0.3, 1.0), "preserved": (True, False)}, CANVAS["UCE"]
    ),
    "salun": Method(
        "SalUn", "arXiv 2310.12508", salun, "image", {"lr": (1e-4, 3e-4, 1e-3), "keep_weight": (0.5, 1.0)},
        CANVAS["SalUn"],
    ),
    "forget-me-not": Method(
        "Forget-Me-Not", "arXiv 2303.17591", forget_me_not, "image",
        {"lr": (3e-5, 1e-4, 3e-4), "steps": (35, 150)}, CANVAS["FMN"],
    ),
    "concept-ablation": Method(
        "Concept Ablation", "arXiv 2303.13516", concept_ablation, "image",
        {"lr": (1e-4, 3e-4, 1e-3), "regular": (0.3, 1.0)}, CANVAS["CA"],
    ),
    "selective-amnesia": Method(
        "Selective Amnesia", "arXiv 2305.10120", selective_amnesia, "image",
        {"lr": (1e-4, 3e-4, 1e-3), "elastic": (1e-4, 1e-2)},
    ),
    "sfr-on": Method(
        "SFR-on", "arXiv 2409.19732", sfron, "image", {"lr": (3e-5, 1e-4, 3e-4), "forget_weight": (1.0, 10.0)}
    ),
    "low-rank": Method(
        "SPM / LECO", "arXiv 2312.16145", low_rank, "name",
        {"lr": (1e-3, 3e-3, 1e-2), "keep_weight": (0.3, 1.0)}, CANVAS["SPM"],
    ),
    "fade": Method(
        "FADE", "arXiv 2602.07058", fade, "image", {"lr": (1e-4, 3e-4, 1e-3), "share": (0.1, 0.5)}
    ),
    "full": Method(
        "full fine-tuning, our loss", "", full, "", {"lr": (1e-4, 3e-4, 1e-3), "strength": (0.25, 0.75)}
    ),
    "semu-published": Method(
        "SEMU as published", "arXiv 2502.07587", semu_published, "image",
        {"lr": (3e-4, 1e-3, 3e-3), "keep_weight": (0.0, 1.0)},
    ),
    "ours-euclidean-free": Method(
        "ours, Euclidean, no keep prompts", "", variant("euclidean", 0.0), "", SEMU
    ),
    "ours-euclidean": Method("ours, Euclidean", "", variant("euclidean", 1.0), "", SEMU),
    "ours-remain-free": Method("ours, remain geometry, no keep prompts", "", variant("remain", 0.0), "", SEMU),
    "ours-remain": Method("ours, remain geometry", "", variant("remain", 1.0), "", SEMU),
    "ours-robust": Method("ours, adversarial", "", variant("remain", 1.0), like="ours-remain", more=ROBUST),
}  # fmt: skip


def edit(name: str, pipe, concept: str, budget: Budget, seed: int, **hyper) -> tuple[Edited, dict]:
    """Runs a method on a pipeline, in place, and measures what it took.

    Raises:
        ValueError: an unknown method; whatever the method finds wrong.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    meter, own = Meter(denoiser(pipe)), parameter_count(pipe)
    memory.reset_peak()
    before, started = memory.resident(), time.perf_counter()
    try:
        edited = METHODS[name].edit(pipe, concept, budget, seed, **hyper)
    finally:
        meter.close()
    facts = {
        "seconds": time.perf_counter() - started,
        "evaluations": meter.samples,
        "gradient_evaluations": meter.trained,
        "peak_memory_mb": memory.peak(),
        "model_memory_mb": before,
        "trained": edited.trained,
        "trained_percent": 100 * edited.trained / own,
        "shipped_bytes": edited.shipped,
    }
    return edited, facts
