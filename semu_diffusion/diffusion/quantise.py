"""Quantising a model while it is loaded: diffusers' own configurations for its denoisers, by short names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch

from .pipeline import EXPERTS

# kind -> what must be importable, and what pip calls it
PACKAGES = {
    "bnb-4bit": ("bitsandbytes", "bitsandbytes"), "bnb-8bit": ("bitsandbytes", "bitsandbytes"),
    "torchao-int8": ("torchao", "torchao"), "quanto-int8": ("optimum.quanto", "optimum-quanto"),
}  # fmt: skip


def quantisation(kind: str | None, folder: Path, index: dict, dtype: torch.dtype | dict[str, torch.dtype]) -> dict:
    """The argument with which diffusers quantises the denoisers of a folder; {} for no kind.

    Args:
        index: The folder's model_index.json.
        dtype: What is computed in, of all parts or by part.

    Raises:
        ValueError: the package is missing, or the files are quantised already.
    """
    if kind is None:
        return {}
    from diffusers import PipelineQuantizationConfig

    check_package(kind)
    parts = [name for name in ("unet", "transformer", *EXPERTS) if (index.get(name) or [None])[0] is not None]
    for name in parts:
        file = folder / name / "config.json"
        if file.is_file() and (stored := json.loads(file.read_text()).get("quantization_config")):
            method = stored.get("quant_method") if isinstance(stored, dict) else stored
            raise ValueError(f"{folder}/{name} is quantised already ({method}); leave out --quantize")
    computed = lambda name: dtype.get(name, torch.float32) if isinstance(dtype, dict) else dtype  # noqa: E731
    mapping = {name: configuration(kind, computed(name)) for name in parts}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def check_package(kind: str) -> None:
    """ValueError, with the line that installs it, where the package of a kind is missing."""
    module, package = PACKAGES[kind]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package around it
        found = None
    if found is None:
        raise ValueError(f"--quantize {kind} needs {package}: pip install {package}")


def configuration(kind: str, dtype: torch.dtype):
    """diffusers' configuration of a kind, for a model that computes in this dtype."""
    from diffusers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

    if kind == "bnb-4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if kind == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if kind == "quanto-int8":
        return QuantoConfig(weights_dtype="int8")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())
