"""Retrain: a fresh model trained without the forget set. What every method is compared with.

Needs the remaining data; the forget set is never looked at. It is not bound by the budget.
"""

from __future__ import annotations

import torch
from torch import nn

from semu_diffusion.classification import fit

from .common import Peer, Task


def unlearn(task: Task, epochs: int = 12, lr: float = 0.05) -> nn.Module:
    """Draws all weights anew and trains on the remaining data, as the original was trained."""
    reset(task.model, task.seed)
    budget = task.budget
    return fit(task.model, task.retain, epochs, lr, budget.batch_size, augment=budget.augment, seed=task.seed)


def reset(model: nn.Module, seed: int) -> None:
    """Fresh weights everywhere. ValueError for a module with parameters of its own and no `reset_parameters`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(f"{name or 'the model'} cannot be drawn anew: it has no reset_parameters()")


PEER = Peer("Retrain", unlearn, "the definition of unlearning", "the remaining data", grid=({},))
