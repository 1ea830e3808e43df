"""What an adapter's updates do to what comes out of their layers, from inputs that those see: V^T C V, not C.

D = U R V^T moves the outputs on inputs with second moments C = mean of x x^T by tr(D C D^T), and there C meets nothing
but V. So z = V^T x is summed, of r numbers where x has n: r is at most 32 where a convolution has 11,520 inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .base_layers import device_of, full_precision, is_linear
from .gradients import padded, show_inputs
from .layer import SemuLayer, held
from .moments import squares
from .ranks import ALONE, Ranks
from .weights import semu_layers


class Effect:
    """Sums z z^T of one layer's z = V^T x (N, r), and the squares of its inputs x (N, n)."""

    def __init__(self, layer: SemuLayer, adapter_name: str):
        self.layer, self.adapter_name = layer, adapter_name
        self.sum, self.squares, self.count = 0.0, 0.0, 0

    def add(self, x: torch.Tensor) -> None:
        """Adds an input of the layer."""
        with full_precision(x.device):
            z = rows(self.layer, self.layer.right(x.float(), self.adapter_name))
            self.sum = self.sum + z.T @ z
            self.squares += squares(windows(self.layer.get_base_layer(), x.float()))
        self.count += len(z)

    def add_up(self, ranks: Ranks) -> None:
        """The sums become those of all processes."""
        if ranks.count == 1:
            return
        r = self.layer.r[self.adapter_name]
        total = self.sum if self.count else torch.zeros(r, r, device=device_of(self.layer.get_base_layer()))
        self.sum = ranks.add(total)
        self.squares, self.count = ranks.add(torch.tensor([self.squares, self.count], dtype=torch.float64)).tolist()

    def root(self, damping: float) -> torch.Tensor:
        """E (r, r) with E^T E = V^T (C + damping size I) V, fp64; size is the mean of C's diagonal."""
        V = held(self.layer.semu_V, self.adapter_name).to(self.sum).double()
        size = self.squares / self.count / len(V)
        values, w = torch.linalg.eigh(self.sum.double() / self.count + (damping * size + 1e-30) * V.T @ V)
        return values.clamp_min(0).sqrt()[:, None] * w.T


def rows(layer: SemuLayer, z: torch.Tensor) -> torch.Tensor:
    """What a layer's `right` gives as rows (N, r): one for each position, and of a convolution for each group."""
    conv = layer.get_base_layer()
    if is_linear(conv):
        return z.flatten(0, -2)
    return z.unflatten(1, (conv.groups, -1)).flatten(3).transpose(2, 3).flatten(0, 2)  # (B, g, r, h, w)


def windows(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The inputs of a Linear; of a convolution the norms of what lies in each of its windows, (B, 1, h, w)."""
    if is_linear(layer):
        return x
    ones, pixels = torch.ones(1, 1, *layer.kernel_size).to(x), padded(layer, x.square()).sum(1, keepdim=True)
    return F.conv2d(pixels, ones, None, layer.stride, 0, layer.dilation).sqrt()


def effects(
    model: nn.Module,
    forward: Callable[[], object],
    damping: float,
    adapter_name: str = "default",
    ranks: Ranks = ALONE,
) -> dict[str, torch.Tensor]:
    """Of each adapted layer an E (r, r) with E^T E = V^T C V, C being its inputs' damped second moments.

    Args:
        forward: Runs the model on the inputs that count.
        damping: C becomes C + damping * mean(diag C) * I.
        ranks: The processes whose `forward`s together are what is to be seen.
    """
    sums = {name: Effect(layer, adapter_name) for name, layer in semu_layers(model, adapter_name).items()}
    hook = lambda own: lambda layer, args: own.add(args[0].detach())  # noqa: E731
    show_inputs(model, {own.layer: hook(own) for own in sums.values()}, forward)
    for own in sums.values():
        own.add_up(ranks)
    return {name: own.root(damping) for name, own in sums.items() if own.count}
