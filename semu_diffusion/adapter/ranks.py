"""The processes over which drawings, sums and factorisations are shared out; alone by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")
Rows = TypeVar("Rows", torch.Tensor, list)


@dataclass(frozen=True)
class Ranks:
    """This process among those of `torch.distributed` that work on the same thing, and what they say to each other.

    All but `own`, `whole` and `places` are collective: every process calls them, in the same order.

    Args:
        device: Where the backend takes tensors: a GPU for NCCL, the CPU for gloo.
        sharded: Each process holds only its part of the model, so that every call of it is collective too.
    """

    index: int = 0
    count: int = 1
    device: torch.device | str = "cpu"
    sharded: bool = False

    def own(self, rows: Rows) -> Rows:
        """This process's share of rows."""
        return rows[self.index :: self.count]

    def whole(self, rows: Rows) -> Rows:
        """Rows that can be shared out: of a sharded model no process may be asked more often than the others."""
        return rows[: len(rows) // self.count * self.count] if self.sharded else rows

    def places(self, n: int) -> torch.Tensor:
        """This process's places (ceil(n / count),) among n rows; where that does not come out even, some rows go to
        several processes, so that all have as many."""
        return (self.index + self.count * torch.arange(-(-n // self.count))) % n

    def rows(self, own: torch.Tensor, n: int) -> torch.Tensor:
        """All n rows from every process's at its `places`; on the CPU where there are several."""
        if self.count == 1:
            return own
        here = own.to(self.device).contiguous().view(torch.uint8)  # of any dtype, to the bit
        parts = [torch.empty_like(here) for _ in range(self.count)]
        distributed.all_gather(parts, here)
        return torch.stack([part.view(own.dtype) for part in parts], 1).flatten(0, 1)[:n].cpu()

    def add(self, total: torch.Tensor) -> torch.Tensor:
        """Adds a tensor up over all processes, in its place."""
        if self.count > 1:
            here = total.to(self.device).contiguous()
            distributed.all_reduce(here)
            if here is not total:
                total.copy_(here)
        return total

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces tensors of one dtype by their means over all processes, all at once."""
        flat = self.add(torch.cat([tensor.flatten() for tensor in tensors])) / self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def sent(self, value: torch.Tensor) -> torch.Tensor:
        """The first process's tensor; others give one of its shape and dtype."""
        if self.count == 1:
            return value
        here = value.to(self.device).contiguous().view(torch.uint8)
        distributed.broadcast(here, 0)
        return here.view(value.dtype).to(value.device)

    def each(self, value: Value) -> list[Value]:
        """What every process says, in their order."""
        found = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(found, value)
        return found

    def first(self, value: Value) -> Value:
        """What the first process says."""
        found = [value]
        if self.count > 1:
            distributed.broadcast_object_list(found)
        return found[0]

    def shared_out(self, costs: Sequence[float]) -> list[int]:
        """Who does each of some tasks: the dearest first, always to the one who has least to do."""
        owners, loads = [0] * len(costs), [0.0] * self.count
        for task in sorted(range(len(costs)), key=lambda k: -costs[k]):
            owners[task] = min(range(self.count), key=loads.__getitem__)
            loads[owners[task]] += costs[task]
        return owners

    def named(self, names: Iterable[str]) -> set[str]:
        """The names that any process has."""
        return {name for own in self.each(list(names)) for name in own}


ALONE = Ranks()
