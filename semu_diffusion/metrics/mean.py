"""What metrics have in common that are a mean over pictures, pairs or examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOver(Metric):
    """Base of metrics that add numbers up over batches and processes; `update` is the subclass's own.

    `compute` returns the mean as an fp64 scalar, NaN before the first number.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Adds one number per picture, pair or example, (B,)."""
        self.total += values.sum().to(self.total.device)
        self.count += len(values)

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        return self.total / self.count
