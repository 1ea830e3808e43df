"""Pipelines: load one with clear errors, put an adapter on it, write the files that others load."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..adapter.switch import set_strength
from ..adapter.weights import LORA, SemuConfig, lora_factors, lora_metadata
from ..adapter.weights import load_adapter as _load_adapter

EMBEDDED = "pictograms"
ASSETS = Path(__file__).parent.parent / "assets"


def model_path(model: str) -> str:
    """The folder of an embedded model's name; anything else as it is."""
    return str(ASSETS / model) if model == EMBEDDED else model


def base_name(pipe) -> str:
    """Where a pipeline was loaded from; "" if it was built by hand."""
    return str(getattr(pipe, "name_or_path", "") or pipe.config.get("_name_or_path") or "")


def component(pipe) -> str:
    """The pipeline's name for its denoiser: "unet" or "transformer". ValueError where it has neither."""
    found = next((part for part in ("unet", "transformer") if getattr(pipe, part, None) is not None), None)
    if found is None:
        raise ValueError(f"{type(pipe).__name__} has neither a unet nor a transformer")
    return found


def denoiser(pipe) -> nn.Module:
    """The model that is erased from."""
    return getattr(pipe, component(pipe))


def load_pipeline(model: str, device: str | None = None, dtype: torch.dtype = torch.float32):
    """A diffusers pipeline from the embedded name, a folder, or a Hub id.

    Raises:
        ValueError: nothing there, or not a diffusers pipeline.
    """
    from diffusers import DiffusionPipeline

    path, device = model_path(model), check_device(device)
    if Path(path).is_dir() and not (Path(path) / "model_index.json").is_file():
        raise ValueError(f"{model} is a folder without model_index.json, so it is no diffusers pipeline")
    if not Path(path).exists() and (path.count("/") != 1 or path.startswith((".", "/"))):
        raise ValueError(f"no model at {model}: expected a diffusers folder, a Hub id like user/name, or {EMBEDDED!r}")
    try:
        pipe = DiffusionPipeline.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the model {model}: {str(error).strip().splitlines()[0]}") from None
    return pipe.to(device, dtype)


def check_device(name: str | None) -> torch.device:
    """The device of that name, by default a GPU if there is one. ValueError where this machine has no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device


def load_adapter(pipe, path: str | Path, adapter_name: str = "default", scale: float = 1.0) -> SemuConfig:
    """Puts a SEMU adapter on a pipeline's denoiser, frozen and active, at the given strength.

    Raises:
        ValueError: a missing or damaged file, or an adapter for another model (names the first layer that differs).
    """
    config = _load_adapter(denoiser(pipe), path, adapter_name)
    set_scale(pipe, scale, adapter_name)
    return config


def set_scale(pipe, scale: float, adapter_name: str = "default") -> None:
    """W + scale * U R V^T from now on."""
    set_strength(denoiser(pipe), scale, adapter_name)


def has_lora(pipe) -> bool:
    """Whether plain diffusers loads a LoRA into this pipeline."""
    return hasattr(pipe, "load_lora_weights")


def save_lora(pipe, folder: str | Path, adapter_name: str = "default", uniform: bool = False) -> Path:
    """Writes `pytorch_lora_weights.safetensors`, the exact LoRA that plain `pipe.load_lora_weights` reads.

    Ranks differ by layer; they are in the file's header, which diffusers reads since 0.36. `uniform` pads all factors
    with zeros to the highest rank instead, for older ones.

    Raises:
        ValueError: diffusers has no LoRA for this pipeline, or none that can express a layer.
    """
    if not has_lora(pipe):
        raise ValueError(f"{type(pipe).__name__} loads no LoRA in diffusers; use the native adapter, or merge it")
    part = component(pipe)
    factors = lora_factors(denoiser(pipe), adapter_name)
    if uniform:
        factors = pad_factors(factors)
    layers = {}
    for name, (A, B) in factors.items():
        layers |= {f"{name}.lora_A.weight": A.cpu(), f"{name}.lora_B.weight": B.cpu().contiguous()}
    temporary = f"{LORA.removesuffix('.safetensors')}.tmp.safetensors"
    arguments = {f"{part}_lora_layers": layers, f"{part}_lora_adapter_metadata": lora_metadata(factors)}
    type(pipe).save_lora_weights(str(folder), **arguments, weight_name=temporary)
    return (Path(folder) / temporary).replace(Path(folder) / LORA)


def pad_factors(factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """LoRA factors A (r, ...) and B (m, r, ...) of each layer, padded with zeros to the highest rank of all."""
    r, padded = max(len(A) for A, _ in factors.values()), {}
    for name, (A, B) in factors.items():
        missing = r - len(A)
        zeros = A.new_zeros(missing, *A.shape[1:]), B.new_zeros(len(B), missing, *B.shape[2:])
        padded[name] = torch.cat([A, zeros[0]]), torch.cat([B, zeros[1]], 1)
    return padded
