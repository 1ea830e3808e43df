"""A trained adapter made small before it is written: truncated, then rounded to the type of its file, and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .moments import Root
from .updates import STORED, Update, check_energy, check_precision, compress, inner, rounded, widened
from .weights import semu_layers, update_of


@dataclass
class Shrunk:
    """What was done to an adapter: sums of ranks and bytes before and after, and squared norms."""

    ranks: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    changed: float = 0.0  # ||D' - D||_F^2 over all layers
    whole: float = 0.0  # ||D||_F^2

    def __add__(self, other: Shrunk) -> Shrunk:
        both = lambda a, b: (a[0] + b[0], a[1] + b[1])  # noqa: E731
        return Shrunk(
            both(self.ranks, other.ranks),
            both(self.bytes, other.bytes),
            self.changed + other.changed,
            self.whole + other.whole,
        )

    @property
    def error(self) -> float:
        """||D' - D||_F / ||D||_F, 0 for an adapter that changes nothing."""
        return (self.changed / self.whole) ** 0.5 if self.whole > 0 else 0.0

    def words(self) -> str:
        """In a line."""
        return (
            f"ranks sum to {self.ranks[1]:,} instead of {self.ranks[0]:,}, {self.bytes[1]:,} bytes instead of "
            f"{self.bytes[0]:,}; relative error of the update {self.error:.2g}"
        )

    def facts(self) -> dict:
        """For results.json."""
        return {"ranks": self.ranks[1], "bytes": self.bytes[1], "bytes_trained": self.bytes[0], "error": self.error}


def distance(a: Update, b: Update) -> float:
    """||D_a - D_b||_F^2, from the factors of [D_a, -D_b] themselves, as the three inner products would cancel."""
    gap = Update(torch.cat([a.U, b.U], 1).double(), torch.block_diag(a.R, -b.R).double(), torch.cat([a.V, b.V], 1))
    QU, QV = (torch.linalg.qr(X.double(), mode="r").R for X in (gap.U, gap.V))
    return (QU @ gap.R @ QV.T).square().sum().item()


def size(update: Update, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of U and V in a type, and of R in fp32."""
    return dtype.itemsize * (update.U.numel() + update.V.numel()) + 4 * update.R.numel()


def shrink(
    model: nn.Module,
    energy: float = 1.0,
    precision: str = "fp32",
    adapter_name: str = "default",
    root: Callable[[str], Root | None] = lambda name: None,
) -> Shrunk:
    """Truncates every layer of an injected adapter to a share of its energy and rounds it, in place.

    What is then on the model is what a file of that precision holds, to the last bit.

    Args:
        energy: As for `compress`; at 1 no layer's factors are touched before they are rounded.
        precision: A key of `STORED`.
        root: Layer -> the root of its inputs' second moments, or None for the plain norm.

    Raises:
        ValueError: energy outside (0, 1], an unknown precision, values that the precision cannot hold.
    """
    check_energy(energy)
    check_precision(precision)
    total, dtype = Shrunk(), STORED[precision]
    for name, layer in semu_layers(model, adapter_name).items():
        old = new = update_of(layer, adapter_name)
        if energy < 1:
            basis, core = compress(*old, energy, root(name))
            new = Update(basis.U, core, basis.V)
        new = rounded(*new, dtype, name)
        total += Shrunk((len(old.R), len(new.R)), (size(old), size(new, dtype)), distance(old, new), inner(old, old))
        if energy < 1 or dtype != torch.float32:
            layer.set_basis(adapter_name, **widened(*new)._asdict())
    for part in model.modules():  # the model itself, or those that it consists of
        if config := getattr(part, "peft_config", {}).get(adapter_name):
            config.ranks = {name: layer.r[adapter_name] for name, layer in semu_layers(part, adapter_name).items()}
            config.target_modules = list(config.ranks)
    return total
