"""What a training step is made of, and where training is."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class Batch:
    """Indices into the states: forgotten and kept records of one step, and the forgotten ones' adversarial shifts."""

    forget: torch.Tensor
    keep: torch.Tensor
    shift: torch.Tensor


@dataclass
class Progress:
    """Where training is; saved with each checkpoint."""

    step: int = 0
    reached: int = 0  # the step at which the stop rule was met, 0 before
    attacks: list[int] = field(default_factory=list)  # steps after which rounds began: adversarial ones, then lasting
    history: list[dict] = field(default_factory=list)
