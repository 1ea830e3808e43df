"""What training goes on from: the adapter's tensors with Adam's moments, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..adapter.weights import semu_layers, update_of

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # Adam's, of each R


def trained_state(model: nn.Module, optimizer: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """U, V, R of each layer and Adam's moments of R, as "layer:part"."""
    tensors = {}
    for (name, layer), group in zip(semu_layers(model).items(), optimizer.param_groups, strict=True):
        state = optimizer.state.get(group["params"][0], {})
        parts = {**update_of(layer)._asdict(), **{k: state[k] for k in MOMENTS if k in state}}
        tensors |= {f"{name}:{k}": v for k, v in parts.items()}
    return tensors


def put_back(
    stored: dict[str, torch.Tensor],
    model: nn.Module,
    optimizer: torch.optim.Adam,
    fresh: Callable[[], torch.optim.Adam],
) -> None:
    """Gives the model and its optimizer what `trained_state` made; `fresh` makes an optimizer of the new R."""
    layers = semu_layers(model)
    for name, layer in layers.items():
        layer.set_basis("default", *(stored[f"{name}:{part}"] for part in "UVR"))
    optimizer.param_groups[:] = fresh().param_groups
    optimizer.state.clear()
    for name, group in zip(layers, optimizer.param_groups, strict=True):
        moments = {k: stored[f"{name}:{k}"] for k in MOMENTS if f"{name}:{k}" in stored}
        R = group["params"][0]
        optimizer.state[R] = {k: v.to(R.device) if k != "step" else v for k, v in moments.items()}
