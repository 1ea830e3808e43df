"""Where a pipeline's parts are: offloaded ones keep their hooks, the others are moved only where they must."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..adapter.base_layers import device_of, hook_device, is_sharded
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


def wake(module: nn.Module) -> None:
    """A model that is offloaded as a whole comes to its device, as it does with each call."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and not any(p.device.type == "meta" for p in module.parameters()):
        hook.pre_forward(module)


class Stage:
    """What is on the device while a concept is erased: the models at work, the others only for their own moment.

    Nothing is moved where the device is the CPU, nor what hooks move or what a quantiser holds in its place.

    Args:
        room: Bytes that there are; the models at work leave while others work that do not fit beside them.
    """

    def __init__(self, pipe, family, device: torch.device, room: float | None = None):
        self.device, self.room = device, room
        busy = {id(m) for m in (*family.model.modules(), denoiser(pipe))}
        movable = [m for m in modules_of(pipe) if device.type != "cpu" and not is_fixed(m)]
        self.busy = [m for m in movable if id(m) in busy]
        self.idle = [m for m in movable if id(m) not in busy]

    def begin(self) -> None:
        """The models at work come to the device, the others leave it."""
        move(self.idle, "cpu")
        move(self.busy, self.device)

    @contextlib.contextmanager
    def awake(self, *modules: nn.Module | None) -> Iterator[None]:
        """These are on the device for the time of the block."""
        wanted = [m for m in self.idle if any(m is module for module in modules)]
        crowded = self.room is not None and sum(map(module_bytes, (*wanted, *self.busy))) > self.room
        if crowded:
            move(self.busy, "cpu")
        move(wanted, self.device)
        try:
            yield
        finally:
            move(wanted, "cpu")
            if crowded:
                move(self.busy, self.device)

    def end(self, pipe) -> None:
        """All parts on the device, or, where they do not fit, each for its own moment by diffusers' hooks."""
        if self.room is not None and sum(map(module_bytes, modules_of(pipe))) > self.room and self.idle:
            pipe.enable_model_cpu_offload(device=self.device)
        else:
            move(self.idle, self.device)


def is_fixed(module: nn.Module) -> bool:
    """Whether a module's place is not ours to change: hooks move it, bitsandbytes or FSDP holds it."""
    held = getattr(module, "is_loaded_in_8bit", False) or any(map(is_sharded, module.parameters()))
    return is_hooked(module) or held


def move(modules: list[nn.Module], device: torch.device | str) -> None:
    """Brings modules to a device, and gives back what they leave behind."""
    for module in modules:
        module.to(device)
    if modules and torch.cuda.is_available():
        torch.cuda.empty_cache()


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, of a sharded one those of this process."""
    tensors = (t.to_local() if is_sharded(t) else t for t in (*module.parameters(), *module.buffers()))
    return sum(t.numel() * t.element_size() for t in tensors)


def compute_device(model: nn.Module) -> torch.device:
    """Where a model computes; by its first part with weights where only its parts are offloaded."""
    own = next((m for m in model.modules() if any(True for _ in m.parameters(recurse=False))), model)
    return hook_device(model) or device_of(own)
