"""What happens to a merged model's file: quantised, the edit scaled, another fine-tuning merged in."""

from __future__ import annotations

import copy

import torch
from torch import nn

from .target import Target


def quantise(W: torch.Tensor, bits: int) -> torch.Tensor:
    """W rounded to `bits` with one scale per output channel: round(W / s) s, s = max|W_i| / (2^(bits-1) - 1).

    No entry moves by more than s / 2. Raises ValueError for fewer than 2 bits.
    """
    if bits < 2:
        raise ValueError(f"a signed number needs at least 2 bits, got {bits}")
    scale = W.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).reshape(-1, *[1] * (W.ndim - 1))
    return (W / scale).round() * scale


@torch.no_grad()
def quantised(target: Target, bits: int) -> Target:
    """The target with the weights of all Linear and Conv2d layers of its denoiser rounded."""
    model = copy.deepcopy(target.model)
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.weight.copy_(quantise(layer.weight, bits))
    return target.with_model(model)


@torch.no_grad()
def combined(target: Target, base: Target, scale: float = 1.0, other: Target | None = None) -> Target:
    """base + scale (target - base) + (other - base) in the denoiser's weights.

    `scale` is the strength of an adapter, and the same for any edit; `other` is an unrelated fine-tuning of the base.

    Raises:
        ValueError: denoisers of different shapes.
    """
    model, start = copy.deepcopy(target.model), base.model.state_dict()
    added = other.model.state_dict() if other else start
    own = model.state_dict()
    if own.keys() != start.keys() or own.keys() != added.keys():
        raise ValueError("the models differ in their layers; merge adapters first")
    for name, value in own.items():
        value.copy_(start[name] + scale * (value - start[name]) + (added[name] - start[name]))
    return target.with_model(model)
