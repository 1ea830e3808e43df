"""The tensors of a checkpoint: the adapter, and Adam's moments of each R."""

from __future__ import annotations

import torch
from torch import nn

from ..adapter.weights import semu_layers

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def tensors_of(model: nn.Module, optimizer: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """U, V, R and the moments of each adapted layer, by "layer:part"."""
    tensors = {}
    for (name, layer), group in zip(semu_layers(model).items(), optimizer.param_groups, strict=True):
        state = optimizer.state.get(group["params"][0], {})
        moments = {k: state[k] for k in MOMENTS if k in state}
        parts = {"U": layer.semu_U["default"], "V": layer.semu_V["default"], "R": layer.semu_R["default"]}
        tensors |= {f"{name}:{k}": v for k, v in {**parts, **moments}.items()}
    return tensors


def put_adapter_back(model: nn.Module, stored: dict[str, torch.Tensor]) -> None:
    """Gives each adapted layer its U, V and R of a checkpoint; parameters are new ones then."""
    for name, layer in semu_layers(model).items():
        layer.set_basis("default", *(stored[f"{name}:{part}"] for part in "UVR"))


def put_moments_back(model: nn.Module, optimizer: torch.optim.Adam, stored: dict[str, torch.Tensor]) -> None:
    """Gives a new optimizer of the model's R the moments of a checkpoint."""
    for name, group in zip(semu_layers(model), optimizer.param_groups, strict=True):
        moments, R = {k: stored[f"{name}:{k}"] for k in MOMENTS if f"{name}:{k}" in stored}, group["params"][0]
        optimizer.state[R] = {k: v.to(R.device) if k != "step" else v for k, v in moments.items()}
