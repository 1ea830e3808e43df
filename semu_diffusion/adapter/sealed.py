"""Safetensors files that notice their own damage: what a run leaves for itself to go on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .files import data_of, save_atomic

SEAL = "sha256"


def digest(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 over the facts, and over names, types, shapes and values in the order of the names."""
    found = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        found.update(data_of(tensors[name]))
    return found.hexdigest()


def save_sealed(tensors: Mapping[str, torch.Tensor], path: Path, facts: Mapping[str, str]) -> None:
    """`save_atomic` with the digest of all values among the facts in the header."""
    save_atomic(tensors, path, {**facts, SEAL: digest(tensors, {"format": "pt", **facts})})


def load_sealed(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of `save_sealed` and its facts.

    Raises:
        ValueError: there is no such file, or a single bit of it has changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())[:100]})") from None
    if facts.pop(SEAL, None) != digest(tensors, facts):
        raise ValueError(f"{path} is damaged: it is not as it was written")
    return tensors, facts
