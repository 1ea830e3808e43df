"""Erasing on top of a finished adapter: both active while the new R is trained, then joined into one."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..adapter.config import SemuConfig, erased_concepts
from ..adapter.merging import combine_adapters, replace_adapters, updates_of
from ..adapter.switch import set_strengths
from ..adapter.weights import semu_layers
from .multi_adapter import load_adapters
from .pipeline import parts, remove_adapter

BEFORE = "before"  # the adapter that a new erasure stands on


def load_before(pipe, path: str | Path) -> SemuConfig:
    """Puts a finished adapter under a name of its own on a pipeline from which more is to be erased.

    From then on the pipeline draws without what that adapter erases, so what it is taught to keep lacks it too.

    Raises:
        ValueError: as `load_adapter`.
    """
    return load_adapters(pipe, {BEFORE: path})[BEFORE]


def train_beside(model: nn.Module, adapter_name: str = "default") -> None:
    """Both adapters active, W + U_1 R_1 V_1^T + U R V^T, and only the new R trainable; after its injection."""
    set_strengths(model, {BEFORE: 1.0, adapter_name: 1.0})
    for layer in semu_layers(model, adapter_name).values():
        layer.semu_R[adapter_name].requires_grad_(True)


def join_before(pipe, adapter_name: str = "default") -> None:
    """The adapter that was stood on and the new one become one, under the new one's name, exactly their sum.

    Its config says in `about["before"]` what the first one had erased.
    """
    for model in parts(pipe).values():
        loaded = getattr(model, "peft_config", None) or {}
        if BEFORE not in loaded:
            continue
        old, both = loaded[BEFORE], [name for name in (BEFORE, adapter_name) if name in loaded]
        config = loaded.get(adapter_name) or SemuConfig(about={})
        config.about = {**config.about, "before": erased_concepts(old.about)}
        updates = combine_adapters([updates_of(model, name) for name in both])
        replace_adapters(model, both, updates, config, adapter_name)


def leave_before(pipe) -> None:
    """Takes the adapter that was stood on off again, where an erasure could not begin."""
    remove_adapter(pipe, BEFORE)
