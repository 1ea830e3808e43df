"""An adapted model without its adapter for a while, or with it for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..adapter import SemuLayer


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The base model, bit by bit, for the time of the block; for any nn.Module that carries an adapter."""
    layers = [m for m in model.modules() if isinstance(m, SemuLayer) and not m.disable_adapters]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
            layer.requires_grad_(False)  # PEFT makes R trainable again


def merge_adapter(model: nn.Module) -> nn.Module:
    """Adds the update to the weights, takes the SEMU layers off and returns the same, now plain, model.

    Raises:
        ValueError: the model carries no adapter, or the update is not finite.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SemuLayer)}
    if not layers:
        raise ValueError("the model carries no SEMU adapter to merge")
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.base_layer)
    if hasattr(model, "_hf_peft_config_loaded"):
        model._hf_peft_config_loaded = False  # else transformers would save an adapter that is gone
    del model.peft_config
    return model
