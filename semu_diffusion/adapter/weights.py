"""Adapter files: save, check, load, and the exact LoRA of U R V^T. Safetensors only."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from peft import inject_adapter_in_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .config import SemuConfig
from .layer import SemuLayer, layer_name, matrix_shape
from .model import find_layers

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LORA = "pytorch_lora_weights.safetensors"
PREFIX = "base_model.model."  # PEFT's own; a file without it loads silently as a no-op in PeftModel.from_pretrained


def semu_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, SemuLayer]:
    """The layers that carry an adapter of rank >= 1, by name without PEFT's prefix."""
    found = ((layer_name(k.removeprefix(PREFIX)), m) for k, m in model.named_modules() if isinstance(m, SemuLayer))
    return {name: layer for name, layer in found if layer.r.get(adapter_name)}


def write_atomic(path: Path, text: str) -> None:
    """Writes text under a temporary name, then renames: the file is whole or absent."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def save_atomic(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """`save_file` under a temporary name, then renames."""
    temporary = path.with_name(path.name + ".tmp")
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, {"format": "pt", **(metadata or {})}
    )
    os.replace(temporary, path)


def adapter_state(model: nn.Module, adapter_name: str = "default") -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that PEFT, transformers and `load_adapter` read."""
    state = {}
    for name, layer in semu_layers(model, adapter_name).items():
        for part in ("U", "R", "V"):
            state[f"{PREFIX}{name}.semu_{part}"] = getattr(layer, f"semu_{part}")[adapter_name]
    return state


def save_adapter(
    model: nn.Module, folder: str | Path, adapter_name: str = "default", about: dict | None = None
) -> Path:
    """Writes `adapter_model.safetensors` (header: the config) and `adapter_config.json`; returns the folder.

    Args:
        about: Facts to store as `config.about`; `base_model` among them becomes base_model_name_or_path.

    Raises:
        ValueError: the model has no such adapter.
    """
    state = adapter_state(model, adapter_name)
    if not state:
        raise ValueError(f"the model has no SEMU adapter named {adapter_name!r}")
    config = SemuConfig(**{**model.peft_config[adapter_name].to_dict(), "peft_type": None, "inference_mode": True})
    config.ranks = {name: layer.r[adapter_name] for name, layer in semu_layers(model, adapter_name).items()}
    config.target_modules = list(config.ranks)
    config.about = {**config.about, **(about or {})}
    config.base_model_name_or_path = config.about.get("base_model", config.base_model_name_or_path)
    text = json.dumps({k: v for k, v in config.to_dict().items() if v is not None}, indent=2)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_atomic(state, folder / WEIGHTS, {"semu_config": text})
    write_atomic(folder / CONFIG, text)
    return folder


def config_from_json(text: str | bytes, source: str) -> SemuConfig:
    """The config of an adapter file or its JSON. ValueError where it is not one."""
    try:
        values = json.loads(text)
        known = SemuConfig.__dataclass_fields__
        if values.get("peft_type") != "SEMU":
            raise ValueError(f"its peft_type is {values.get('peft_type')!r}, not SEMU")
        return SemuConfig(**{k: v for k, v in values.items() if k in known and k != "peft_type"})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is not a SEMU config: {error}") from None


def read_config(path: str | Path) -> SemuConfig:
    """The config beside the weights in a folder, or in the header of a `.safetensors` file.

    Raises:
        ValueError: nothing there, or not a SEMU adapter.
    """
    path = Path(path)
    if path.is_dir() and (path / CONFIG).is_file():
        return config_from_json((path / CONFIG).read_bytes(), str(path / CONFIG))
    file = path / WEIGHTS if path.is_dir() else path
    with open_weights(file) as weights:
        metadata = weights.metadata() or {}
    if "semu_config" not in metadata:
        raise ValueError(f"{file} has no SEMU config in its header; is it an adapter written by semu-diffusion?")
    return config_from_json(metadata["semu_config"], str(file))


def open_weights(file: Path):
    """`safe_open` that ends in one clear line for a missing, empty, cut-off or foreign file."""
    if not file.is_file():
        raise ValueError(f"no adapter at {file}: expected a folder with {WEIGHTS}, or such a file")
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is not a whole safetensors file ({error}); download or write it again") from None


def check_fits(model: nn.Module, config: SemuConfig, shapes: dict[str, tuple[int, ...]], source: str) -> None:
    """Compares names and shapes of a file with the model, before anything is allocated.

    Raises:
        ValueError: names the first layer that does not fit.
    """
    layers = find_layers(model, config)
    if not config.ranks:
        raise ValueError(f"{source} names no adapted layer")
    for name, r in config.ranks.items():
        if name not in layers:
            raise ValueError(f"{source} is for another model: this one has no Linear or Conv2d layer {name}")
        m, n = matrix_shape(layers[name])
        for part, expected in (("U", (m, r)), ("R", (r, r)), ("V", (n, r))):
            shape = shapes.get(f"{PREFIX}{name}.semu_{part}")
            if shape is None:
                raise ValueError(f"{source} lacks the {part} of layer {name}; it is incomplete")
            if tuple(shape) != expected:
                problem = f"the {part} of layer {name} is {tuple(shape)}, here it must be {expected}"
                raise ValueError(f"{source} is for another model: {problem}")
    extra = next((k for k in shapes if re.sub(r"\.semu_[URV]$", "", k.removeprefix(PREFIX)) not in config.ranks), None)
    if extra:
        raise ValueError(f"{source} holds {extra}, which its config does not name")


def load_adapter(
    model: nn.Module, path: str | Path, adapter_name: str = "default", trainable: bool = False
) -> SemuConfig:
    """Injects a saved adapter into a bare model (diffusers, transformers or any nn.Module) and makes it active.

    Args:
        path: The folder that `save_adapter` wrote, or its `.safetensors` file.
        trainable: Leave R trainable; otherwise everything of the adapter is frozen.

    Raises:
        ValueError: file missing, damaged, with non-finite values, or made for another model.
    """
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    config = read_config(path)
    with open_weights(file) as weights:
        shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
        check_fits(model, config, shapes, str(file))
        tensors = {key: weights.get_tensor(key) for key in shapes}
    broken = next((k for k, v in tensors.items() if not v.is_floating_point() or not v.isfinite().all()), None)
    if broken:
        raise ValueError(f"{file}: {broken} holds values that are not finite numbers")
    config.inference_mode = not trainable
    inject(model, config, adapter_name)
    for name, layer in semu_layers(model, adapter_name).items():
        U, R, V = (tensors[f"{PREFIX}{name}.semu_{part}"] for part in "URV")
        layer.set_basis(adapter_name, U, V, R)
        layer.semu_R[adapter_name].requires_grad_(trainable)
    return config


def inject(model: nn.Module, config: SemuConfig, adapter_name: str = "default") -> None:
    """`model.add_adapter` where the library has it (diffusers, transformers), else PEFT's own injection."""
    if hasattr(model, "add_adapter"):
        model.add_adapter(config, adapter_name=adapter_name)
    else:
        inject_adapter_in_model(config, model, adapter_name)
        model.peft_config = {**getattr(model, "peft_config", {}), adapter_name: config}


def lora_factors(model: nn.Module, adapter_name: str = "default") -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The exact LoRA of each layer: A = V^T (r, n), B = U R (m, r), shaped for the layer; alpha = rank.

    Raises:
        ValueError: a convolution with groups, dilation or padding that PEFT's LoRA would get wrong.
    """
    factors = {}
    for name, layer in semu_layers(model, adapter_name).items():
        A, B = layer.semu_V[adapter_name].T, layer.left(adapter_name)
        conv = layer.get_base_layer()
        if isinstance(conv, nn.Conv2d):
            if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
                raise ValueError(
                    f"LoRA cannot express {name}: a convolution with groups, dilation or {conv.padding_mode} padding"
                )
            A, B = A.reshape(-1, *conv.weight.shape[1:]), B[:, :, None, None]
        factors[name] = (A.detach().contiguous(), B.detach().contiguous())
    return factors


def lora_metadata(factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict:
    """LoraConfig arguments with exact per-layer ranks; diffusers 0.35 mis-scales varying ranks without them."""
    ranks = {f"^{name}": A.shape[0] for name, (A, _) in factors.items()}
    r = max(ranks.values())
    return {
        "r": r,
        "lora_alpha": r,
        "target_modules": [name.removeprefix("^") for name in ranks],
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }
