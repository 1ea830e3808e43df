"""SEMU: random labels, trained in the small R of W + U R V^T; Euclidean basis or that of the remain geometry.

arXiv 2502.07587, as semu_diffusion.classification has it. Needs the forget set; the remaining data where there is any.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from semu_diffusion.classification import unlearn as semu_unlearn
from semu_diffusion.classification.config import GRADIENTS, LABELS

from .common import Peer, Task


def unlearn(task: Task, geometry: str = "euclidean", **hyper) -> nn.Module:
    """Leaves the adapter on the model; `hyper` are fields of `UnlearnConfig`."""
    budget, alone = task.budget, task.retain is None
    options = {
        "alpha": 0.0 if alone else 1.0,
        "whole_class": budget.whole_class,
        "epochs": budget.passes(len(task.forget) * (1 if alone else 2), spent=len(task.forget)),
        "batch_size": budget.batch_size if alone else budget.batch_size // 2,  # and as many kept examples
        "stop": "accuracy",
        "target": None if budget.whole_class else budget.unseen,
        "geometry": geometry,
        **({"augment": budget.augment} if budget.augment else {}),
    }
    return semu_unlearn(task.model, task.forget, task.retain, seed=task.seed, **{**options, **hyper}).model


GRID = tuple({"labels": labels, "lr": lr} for labels in LABELS for lr in (3e-2, 1e-1))
ALONE = tuple({"labels": labels, "gradient": gradient} for labels in LABELS for gradient in GRADIENTS)
REMAIN = {"geometry": "remain", "max_rank": 8}  # its bases are wide: so that even a narrow net has at most 1 % trained
PEERS = tuple(
    Peer(name, partial(unlearn, **options), "arXiv 2502.07587", "the forget set", grid=GRID, alone=ALONE)
    for name, options in (("SEMU", {}), ("SEMU remain", REMAIN))
)
