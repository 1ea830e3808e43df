"""Runs an eraser on a pipeline and makes an adapter of what it adds to the weights: W' = W + U R V^T by its SVD."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch

from ...adapter import SemuConfig
from ...adapter.claims import WORK
from ...adapter.decompose import choose_rank
from ...adapter.shrink import Shrunk, shrink
from ...adapter.updates import Update
from ...adapter.weights import put_adapter
from .. import families
from ..config import EraseConfig
from ..devices import Stage, wake
from ..families import Family
from ..loading import DoesNotFit
from ..plan import make_plan
from ..results import measure
from ..trainer import Progress
from .registry import OWN, Eraser, eraser_of
from .task import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..concepts import Vocabulary
    from ..erasure import Erasure, Run


def check_fits(method: str, kind: type) -> None:
    """DoesNotFit where a method does not fit pipelines of this class; said before a weight of one is read."""
    if method == OWN:
        return
    own = [getattr(families, name) for name in eraser_of(method).families]
    if not any(family.has(kind) for family in own):
        titles = "; ".join(family.title for family in own)
        raise DoesNotFit(f"{method} does not fit {kind.__name__}; it is for: {titles} (semu is for all families)")


def check_run(config: EraseConfig, resume: bool) -> None:
    """ValueError for what only SEMU does."""
    config.check_taken()
    if resume and config.method != OWN:
        raise ValueError(f"{config.method} does not go on where it stopped; leave out --resume")


def edit_with(
    erasure: Erasure, name: str, family: Family, vocabulary: Vocabulary, accelerator: Accelerator, run: Run
) -> None:
    """From the plan of prompts to the adapter on the pipeline; fills in the erasure's plan, progress and facts."""
    pipe, config, callback = erasure.pipe, erasure.config, run.callback
    eraser, device = eraser_of(config.method), accelerator.device
    check_fits(config.method, type(pipe))
    if accelerator.num_processes > 1:
        raise ValueError(f"{config.method} runs in one process, not in {accelerator.num_processes}")
    family.stage = Stage(pipe, family, device)
    for part in (part for part in pipe.components.values() if isinstance(part, torch.nn.Module)):
        part.requires_grad_(False).eval()
    try:
        family.stage.begin()
        planned, config = make_plan(family, config, vocabulary, [], callback)
        callback.planned(planned, config)
        names = [word for concept in planned.concepts for word in concept.names]
        task = Task(family, config, planned.pairs, names, planned.keep, callback)
        wake(family.model)
        deltas = eraser.edit(task)
        about = {"base_model": name, "method": eraser.title, "paper": eraser.paper, **planned.about()}
        small = put_deltas(family, deltas, config, {**about, "concept": config.concept})
    except BaseException:
        if run.folder:
            shutil.rmtree(run.folder / WORK, ignore_errors=True)
        raise
    finally:
        family.stage.end(pipe)
    callback.note(f"written: {config.compress:.0%} of what {eraser.title} adds, in {config.precision}: {small.words()}")
    erasure.config, erasure.plan = config, planned
    erasure.progress = Progress(step=len(task.history), history=task.history)
    erasure.facts |= {"seconds": 0.0, **facts(family, eraser, deltas, erasure.progress), "before": [],
                      "written": small.facts(), **planned.facts()}  # fmt: skip


def put_deltas(family: Family, deltas: dict[str, torch.Tensor], config: EraseConfig, about: dict) -> Shrunk:
    """The updates D (m, n) by layer as an adapter on the family's model, as its files will hold it.

    Raises:
        ValueError: an update that is not finite, or nothing but zeros.
    """
    layers, whole = {}, Shrunk()
    for name, D in deltas.items():
        if not D.isfinite().all():
            raise ValueError(f"{config.method} adds values to {name} that are not finite numbers")
        exact = D.cpu() if D.device.type == "mps" else D  # which knows no fp64
        U, S, Vh = torch.linalg.svd(exact.double(), full_matrices=False)
        r = choose_rank(S, config.compress)
        if r:
            layers[name] = Update(U[:, :r].float(), torch.diag(S[:r].float()), Vh[:r].T.float())
            lost = S[r:].square().sum().item()
            whole += Shrunk((len(S) - r, 0), (4 * D.numel(), 0), lost, lost)
    if not layers:
        raise ValueError(f"{config.method} changes nothing: its updates are zero")
    put_adapter(family.model, SemuConfig(about=about), {name: update._asdict() for name, update in layers.items()})
    kept = shrink(family.model, 1.0, config.precision)
    return Shrunk((kept.ranks[0] + whole.ranks[0], kept.ranks[1]), (whole.bytes[0], kept.bytes[1]),
                  kept.changed + whole.changed, kept.whole + whole.whole)  # fmt: skip


def facts(family: Family, eraser: Eraser, deltas: dict[str, torch.Tensor], progress: Progress) -> dict:
    """`measure`, with the numbers that the method itself trained or solved for."""
    own = sum(p.numel() for n, p in family.model.named_parameters() if "semu_" not in n)
    trained = sum(D.numel() for D in deltas.values())
    found = measure(family, {}, progress)
    return {
        **found,
        "method": eraser.title,
        "paper": eraser.paper,
        "trained": trained,
        "trained_percent": 100 * trained / own,
    }
