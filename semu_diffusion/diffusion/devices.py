"""Where a pipeline's parts are: offloaded ones keep their hooks, the others are moved only where they must."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..adapter.base_layers import device_of, hook_device
from .pipeline import denoiser


def modules_of(pipe) -> list[nn.Module]:
    """The models among a pipeline's components."""
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks of accelerate or diffusers move the module's weights."""
    return any(hasattr(m, "_hf_hook") or grouped(m) for m in module.modules())


def grouped(module: nn.Module) -> bool:
    """Whether diffusers' group offloading moves this module."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None


def execution_device(pipe) -> torch.device:
    """Where a pipeline computes; an offloaded one says that it is on the CPU."""
    return torch.device(getattr(pipe, "_execution_device", None) or pipe.device)


def settle(pipe, device: torch.device) -> None:
    """Brings the parts to a device that no hook brings there; those that are there already stay untouched."""
    for part in modules_of(pipe):
        if not is_hooked(part) and any(p.device.type != device.type for p in part.parameters()):
            part.to(device)


def wake(module: nn.Module) -> None:
    """A model that is offloaded as a whole comes to its device, as it does with each call."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and not any(p.device.type == "meta" for p in module.parameters()):
        hook.pre_forward(module)


def idle_parts(pipe, family) -> list[nn.Module]:
    """Models that nothing needs once the prompts are encoded and the pictures are latents."""
    busy = {id(family.model), id(denoiser(pipe))}
    return [m for m in modules_of(pipe) if id(m) not in busy]


@contextlib.contextmanager
def idle_parts_parked(pipe, family) -> Iterator[None]:
    """Text encoders and autoencoder in the CPU's memory for the time of the block, where that is another one."""
    device = family.device
    idle = [] if device.type == "cpu" else [m for m in idle_parts(pipe, family) if not is_hooked(m)]
    for module in idle:
        module.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for module in idle:
            module.to(device)


def compute_device(model: nn.Module) -> torch.device:
    """Where a model computes; by its first part with weights where only its parts are offloaded."""
    own = next((m for m in model.modules() if any(True for _ in m.parameters(recurse=False))), model)
    return hook_device(model) or device_of(own)
