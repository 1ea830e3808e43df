"""An injected adapter on, off, at a strength, or folded into the weights, in any nn.Module.

Most diffusers models have methods for this; UNet2DModel and PixArt's transformer lack them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .layer import SemuLayer
from .weights import semu_layers


def set_strength(model: nn.Module, scale: float, adapter_name: str = "default") -> None:
    """W + scale * U R V^T of this adapter, which is on from now; what else is on stays on."""
    for layer in semu_layers(model, adapter_name).values():
        others = [] if layer.disable_adapters else layer.active_adapters
        layer._disable_adapters = False
        layer.set_adapter(list(dict.fromkeys([*others, adapter_name])), inference_mode=True)
        layer.set_scale(adapter_name, scale)


def set_strengths(model: nn.Module, scales: dict[str, float]) -> None:
    """W + sum of scale * U R V^T over these adapters by name; other SEMU adapters, and those at 0, are off.

    LoRAs on the same model stay as they are.
    """
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer)):
        wanted = {name: scale for name, scale in scales.items() if scale != 0 and layer.r.get(name)}
        layer.enable_adapters(bool(wanted))
        if wanted:
            layer.set_adapter(list(wanted), inference_mode=True)
        for name, scale in wanted.items():
            layer.set_scale(name, scale)
        layer.requires_grad_(False)  # PEFT makes whatever it switches on trainable


@contextlib.contextmanager
def all_off(model: nn.Module) -> Iterator[None]:
    """The base model for the time of the block; each layer is then as it was, those that were off too."""
    layers = [(m, m.disable_adapters) for m in model.modules() if isinstance(m, BaseTunerLayer)]
    for layer, _ in layers:
        layer._disable_adapters = True  # PEFT's own switch also makes what comes on trainable
    try:
        yield
    finally:
        for layer, off in layers:
            layer._disable_adapters = off


def switch(model: nn.Module, on: bool) -> None:
    """All adapters on, or off: the base model."""
    if hasattr(model, "enable_adapters"):
        model.enable_adapters() if on else model.disable_adapters()
        return
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer)):
        layer.enable_adapters(on)
        layer.requires_grad_(False)  # PEFT makes whatever it switches on trainable


def fold(model: nn.Module, adapter_name: str = "default") -> None:
    """The adapter's update becomes part of the weights and its layers go away."""
    if hasattr(model, "fuse_lora"):
        model.fuse_lora(adapter_names=[adapter_name], safe_fusing=True)
        model.unload_lora()
        return
    for name, layer in semu_layers(model, adapter_name).items():
        layer.merge(safe_merge=True, adapter_names=[adapter_name])
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    _forget(model)


def remove(model: nn.Module, adapter_name: str) -> None:
    """Takes one adapter off; a layer that carries no other is the plain one again."""
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, SemuLayer) and adapter_name in m.r]
    for path, layer in found:
        if len(layer.r) == 1:
            model.set_submodule(path, layer.base_layer)
        else:
            layer.delete_adapter(adapter_name)
    model.peft_config.pop(adapter_name, None)
    if not model.peft_config:
        _forget(model)


def _forget(model: nn.Module) -> None:
    """A model without adapters, also to the libraries, which would else save and load it as an adapted one."""
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = False
    if "peft_config" in vars(model):
        del model.peft_config
