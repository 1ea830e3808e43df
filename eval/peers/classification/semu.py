"""SEMU: random labels, trained in the small R of W + U R V^T; Euclidean basis or that of the remain geometry.

arXiv 2502.07587, as semu_diffusion.classification has it. Needs the forget set; the remaining data where there is any.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.data import Dataset

from semu_diffusion.classification import unlearn as semu_unlearn
from semu_diffusion.classification.config import GRADIENTS, LABELS

from .common import Budget, Peer


def unlearn(
    model: nn.Module,
    forget: Dataset,
    retain: Dataset | None,
    budget: Budget,
    seed: int,
    geometry: str = "euclidean",
    **hyper,
) -> nn.Module:
    """Leaves the adapter on the model; `hyper` are fields of `UnlearnConfig`."""
    per_epoch = len(forget) * (1 if retain is None else 2)
    options = {
        "alpha": 0.0 if retain is None else 1.0,
        "whole_class": budget.whole_class,
        "epochs": budget.passes(per_epoch, spent=len(forget)),
        "batch_size": budget.batch_size if retain is None else budget.batch_size // 2,  # and as many kept examples
        "stop": "accuracy",
        "target": None if budget.whole_class else budget.unseen,
        "geometry": geometry,
        **({"augment": budget.augment} if budget.augment else {}),
    }
    return semu_unlearn(model, forget, retain, seed=seed, **{**options, **hyper}).model


GRID = tuple({"labels": labels, "lr": lr} for labels in LABELS for lr in (3e-2, 1e-1))
ALONE = tuple({"labels": labels, "gradient": gradient} for labels in LABELS for gradient in GRADIENTS)
REMAIN = {"geometry": "remain", "max_rank": 8}  # its bases are wide: so that even a narrow net has at most 1 % trained
PEERS = tuple(
    Peer(name, partial(unlearn, **options), "arXiv 2502.07587", "the forget set", grid=GRID, alone=ALONE)
    for name, options in (("SEMU", {}), ("SEMU remain", REMAIN))
)
