"""An injected adapter on, off, at a strength, or folded into the weights, in any nn.Module.

Most diffusers models have methods for this; UNet2DModel and PixArt's transformer lack them.
"""

from __future__ import annotations

from torch import nn

from .weights import semu_layers


def set_strength(model: nn.Module, scale: float, adapter_name: str = "default") -> None:
    """W + scale * U R V^T, of this adapter alone."""
    if hasattr(model, "set_adapters"):
        model.set_adapters([adapter_name], [scale])
        return
    for layer in semu_layers(model, adapter_name).values():
        layer.set_adapter([adapter_name], inference_mode=True)
        layer.set_scale(adapter_name, scale)


def switch(model: nn.Module, on: bool) -> None:
    """All adapters on, or off: the base model."""
    if hasattr(model, "enable_adapters"):
        model.enable_adapters() if on else model.disable_adapters()
        return
    for layer in semu_layers(model).values():
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
    del model.peft_config
