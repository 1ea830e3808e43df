"""Ways to erase a concept from Stable Diffusion, one interface: (pipe, concept, budget, seed, **hyper) -> Edited.

    from peers.diffusion import METHODS, Budget, edit
    edited, facts = edit("uce", pipe, "cigarette", Budget(), seed=0)

All start from the same forget prompts and may run the denoiser equally often. Written from the papers; where a method
needs pictures, it gets those that the model draws itself, so that none has more to go on than another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from semu_diffusion.diffusion.pipeline import denoiser

from . import memory
from .concept_ablation import concept_ablation
from .esd import esd_u, esd_x
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

__all__ = ["METHODS", "ROBUST", "Budget", "Edited", "Method", "Work", "edit"]

# UA / IRA / CRA for styles and for objects, UnlearnCanvas' own leaderboard (SD 1.5, 50 styles x 20 objects).
CANVAS = {
    "ESD": "98.6 / 81.0 / 94.0, 92.2 / 55.8 / 44.2", "UCE": "98.4 / 60.2 / 47.7, 94.3 / 39.4 / 34.7",
    "FMN": "88.5 / 56.8 / 46.6, 45.6 / 90.6 / 73.5", "CA": "60.8 / 96.0 / 92.7, 46.7 / 90.1 / 82.0",
    "SalUn": "86.3 / 90.4 / 95.1, 86.9 / 96.4 / 99.6", "SPM": "60.9 / 92.4 / 84.3, 71.3 / 90.8 / 81.7",
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A way to erase: `edit` and what the search may choose: two hyper-parameters with three and two values.

    claim: UA / IRA / CRA on UnlearnCanvas, styles then objects, where it lists the method.
    like: The method whose chosen setting it takes over, instead of a search of its own.
    more: What it sets beside that, or otherwise.
    """

    title: str
    paper: str
    edit: Callable[..., Edited]
    search: dict[str, tuple] = field(default_factory=dict)
    claim: str = ""
    like: str = ""
    more: dict = field(default_factory=dict)


RATES = (3e-5, 1e-4, 3e-4)
ROBUST = {"adversarial": 1, "strength": 1.0}  # options of `semu erase`; the round comes on top of the budget
SEMU = {"lr": (2e-2, 5e-2, 1e-1), "strength": (0.75, 1.0)}
METHODS = {
    "esd-x": Method("ESD-x", "arXiv 2303.07345", esd_x, {"lr": RATES, "strength": (0.5, 1.0)}, CANVAS["ESD"]),
    "esd-u": Method("ESD-u", "arXiv 2303.07345", esd_u, {"lr": (1e-5, 3e-5, 1e-4), "strength": (0.5, 1.0)}),
    "uce": Method("UCE", "arXiv 2308.14761", uce, {"erase": (0.3, 1.0, 3.0), "keep": (1.0, 10.0)}, CANVAS["UCE"]),
    "salun": Method("SalUn", "arXiv 2310.12508", salun, {"lr": RATES, "keep_weight": (0.5, 1.0)}, CANVAS["SalUn"]),
    "forget-me-not": Method(
        "Forget-Me-Not", "arXiv 2303.17591", forget_me_not,
        {"lr": (1e-5, 3e-5, 1e-4), "scope": ("cross-attention", "all")}, CANVAS["FMN"],
    ),
    "concept-ablation": Method(
        "Concept Ablation", "arXiv 2303.13516", concept_ablation,
        {"lr": RATES, "scope": ("keys-values", "all")}, CANVAS["CA"],
    ),
    "selective-amnesia": Method(
        "Selective Amnesia", "arXiv 2305.10120", selective_amnesia, {"lr": RATES, "elastic": (1.0, 100.0)}
    ),
    "sfr-on": Method("SFR-on", "arXiv 2409.19732", sfron, {"lr": (1e-5, 3e-5, 1e-4), "forget_weight": (1.0, 10.0)}),
    "low-rank": Method(
        "SPM / LECO", "arXiv 2312.16145", low_rank,
        {"lr": (3e-4, 1e-3, 3e-3), "keep_weight": (0.3, 1.0)}, CANVAS["SPM"],
    ),
    "full": Method("full fine-tuning, our loss", "", full, {"lr": RATES, "strength": (0.75, 1.0)}),
    "semu-published": Method(
        "SEMU as published", "arXiv 2502.07587", semu_published,
        {"lr": (1e-3, 3e-3, 1e-2), "keep_weight": (0.0, 1.0)},
    ),
    "ours-euclidean-free": Method("ours, Euclidean, no keep prompts", "", variant("euclidean", 0.0), SEMU),
    "ours-euclidean": Method("ours, Euclidean", "", variant("euclidean", 1.0), SEMU),
    "ours-remain-free": Method("ours, remain geometry, no keep prompts", "", variant("remain", 0.0), SEMU),
    "ours-remain": Method("ours, remain geometry", "", variant("remain", 1.0), SEMU),
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
