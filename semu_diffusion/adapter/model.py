"""The PEFT tuner."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from .base_layers import is_adaptable
from .config import SemuConfig
from .layer import SemuLayer, make_layer


def _listed(name: str, patterns: list[str] | str | None) -> bool:
    """PEFT's rule: a string is a regex for the whole name; a list holds names or their endings."""
    if not patterns:
        return False
    if isinstance(patterns, str):
        return re.fullmatch(patterns, name) is not None
    return any(name == p or name.endswith(f".{p}") for p in patterns)


def find_layers(model: nn.Module, config: SemuConfig) -> dict[str, nn.Linear | nn.Conv2d]:
    """The base layers that the config targets, by name, in the model's order; adapted ones are unwrapped."""
    found, inside = {}, ()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue  # a part of a tuner layer
        if isinstance(module, BaseTunerLayer):
            inside, module = (*inside, f"{name}."), module.get_base_layer()
        if is_adaptable(module) and _targeted(name, config):
            found[name] = module
    return found


def _targeted(name: str, config: SemuConfig) -> bool:
    """Ranks name layers exactly; only without them do the patterns count."""
    if config.ranks:
        return name in config.ranks
    if any(f".{module}." in f".{name}." for module in config.modules_to_save or ()):
        return False  # trained whole
    listed = config.target_modules is None or _listed(name, config.target_modules)
    return listed and not _listed(name, config.exclude_modules)


class SemuModel(BaseTuner):
    """Injects SEMU layers; with `config.ranks` at exactly those names, else at rank 0 wherever the config targets."""

    prefix: str = "semu_"
    tuner_layer_cls = SemuLayer
    target_module_mapping: dict = {}

    def _prepare_adapter_config(self, peft_config: SemuConfig, model_config: dict) -> SemuConfig:
        if peft_config.ranks or peft_config.target_modules is None:
            peft_config.target_modules = list(find_layers(self.model, peft_config))
            peft_config.exclude_modules = None  # done; PEFT warns of an exclusion that excludes nothing
        return peft_config

    @staticmethod
    def _check_target_module_exists(config: SemuConfig, key: str):
        return key in config.ranks if config.ranks else BaseTuner._check_target_module_exists(config, key)

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:  # PEFT would drop it, and answer with the active adapters
            raise ValueError("SEMU has no adapter per sample (adapter_names); switch with set_adapter between batches")
        yield

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """fp32, or for `autocast_adapter_dtype=False` the type of each base layer; for what PEFT saves besides too."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for layer in (m for m in self.model.modules() if isinstance(m, SemuLayer) and adapter_name in m.r):
            dtype = layer.get_base_layer().weight.dtype
            keeps = autocast_adapter_dtype or not dtype.is_floating_point  # quantised weights have no type to follow
            layer.cast(adapter_name, torch.float32 if keeps else dtype)

    def _create_and_replace(self, config, adapter_name, target, target_name, parent, current_key, **kwargs) -> None:
        r = config.ranks.get(current_key, 0)
        if isinstance(target, SemuLayer):
            target.update_layer(adapter_name, r, config.inference_mode)
            return
        layer = make_layer(target, adapter_name, r, config.inference_mode, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter is not trained until it is made active
        self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # A LoRA around a SEMU layer must not change the names under which SEMU is saved.
        return super()._remove_adapter_name_from_key(key, adapter_name).replace(".base_layer.semu_", ".semu_")
