"""Pipelines: load one with clear errors, put an adapter on it, write the files that others load."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ..adapter.config import SemuConfig
from ..adapter.switch import set_strength, switch
from ..adapter.weights import (
    CONFIG,
    LORA,
    WEIGHTS,
    lora_factors,
    lora_metadata,
    put_adapter,
    read_adapter,
    save_adapter,
    semu_layers,
)

EMBEDDED = "pictograms"
ASSETS = Path(__file__).parent.parent / "assets"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
CLIP = "text_model."  # LoRA files have it in the names of a CLIP's layers; models lack it since transformers 5.6


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


def parts(pipe) -> dict[str, nn.Module]:
    """The models of a pipeline that may carry an adapter: the denoiser first, then its text encoders."""
    encoders = {name: model for name in TEXT_ENCODERS if isinstance(model := getattr(pipe, name, None), nn.Module)}
    return {component(pipe): denoiser(pipe), **encoders}


def adapted_parts(pipe, adapter_name: str = "default") -> dict[str, nn.Module]:
    """Those that carry this adapter. ValueError where none does."""
    found = {name: model for name, model in parts(pipe).items() if semu_layers(model, adapter_name)}
    if not found:
        raise ValueError(f"the pipeline carries no SEMU adapter named {adapter_name!r}")
    return found


def adapter_places(path: str | Path) -> dict[str, Path]:
    """Where the parts of an adapter lie: "" for the denoiser's (the folder or file itself), else by text encoder.

    A folder with text encoder adapters only has no file of its own for the denoiser.
    """
    path = Path(path)
    begun = lambda place: (place / WEIGHTS).exists() or (place / CONFIG).exists()  # noqa: E731
    places = {name: path / name for name in TEXT_ENCODERS if begun(path / name)}
    return places if places and not begun(path) else {"": path, **places}


def read_adapters(pipe, path: str | Path) -> dict[str, tuple[SemuConfig, dict[str, dict[str, torch.Tensor]]]]:
    """Config and tensors (`read_adapter`) for each part of an adapter, all compared with the pipeline's models.

    Raises:
        ValueError: a missing or damaged file, or an adapter for another model.
    """
    models, read = parts(pipe), {}
    for name, place in adapter_places(path).items():
        name = name or component(pipe)
        if name not in models:
            raise ValueError(f"{path} has an adapter for {name}, which {type(pipe).__name__} lacks")
        read[name] = read_adapter(models[name], place)
    return read


def load_adapter(pipe, path: str | Path, adapter_name: str = "default", scale: float = 1.0) -> SemuConfig:
    """Puts a SEMU adapter on a pipeline's denoiser and text encoders, frozen and active, at the given strength.

    Everything is read and checked before the pipeline is touched. Returns the config of the first part.

    Raises:
        ValueError: a missing or damaged file, or an adapter for another model (names the first layer that differs).
    """
    read = read_adapters(pipe, path)
    for name, (config, layers) in read.items():
        put_adapter(parts(pipe)[name], config, layers, adapter_name)
    set_scale(pipe, scale, adapter_name)
    return next(iter(read.values()))[0]


def save_adapters(pipe, folder: str | Path, about: dict | None = None, adapter_name: str = "default") -> Path:
    """The denoiser's adapter into the folder, each text encoder's into a subfolder of its name; returns the folder.

    Raises:
        ValueError: the pipeline has no such adapter.
    """
    adapted, folder = adapted_parts(pipe, adapter_name), Path(folder)
    places = {component(pipe): folder, **{name: folder / name for name in TEXT_ENCODERS}}
    for name, place in places.items():
        if name in adapted:
            save_adapter(adapted[name], place, adapter_name, about)
        else:  # of an earlier adapter, and would be loaded with this one
            for file in (WEIGHTS, CONFIG):
                (place / file).unlink(missing_ok=True)
    return folder


def set_scale(pipe, scale: float, adapter_name: str = "default") -> None:
    """W + scale * U R V^T from now on, in every part that the adapter changes."""
    for model in adapted_parts(pipe, adapter_name).values():
        set_strength(model, scale, adapter_name)


def switch_adapters(pipe, on: bool) -> None:
    """All SEMU adapters of the pipeline on, or off: the base model."""
    for model in parts(pipe).values():
        if getattr(model, "peft_config", None):
            switch(model, on)


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
    arguments, known = {}, inspect.signature(type(pipe).save_lora_weights).parameters
    factors = {name: lora_factors(model, adapter_name) for name, model in adapted_parts(pipe, adapter_name).items()}
    for part, own in pad_parts(factors).items() if uniform else factors.items():
        if f"{part}_lora_layers" not in known:
            raise ValueError(f"{type(pipe).__name__} saves no LoRA for {part} in diffusers; use the native adapter")
        layers = {}
        for name, (A, B) in own.items():
            name = lora_name(part, name)
            layers |= {f"{name}.lora_A.weight": A.cpu(), f"{name}.lora_B.weight": B.cpu().contiguous()}
        arguments[f"{part}_lora_layers"] = layers
        arguments[f"{part}_lora_adapter_metadata"] = lora_metadata(own, CLIP if part in TEXT_ENCODERS else "")
    temporary = f"{LORA.removesuffix('.safetensors')}.tmp.safetensors"
    type(pipe).save_lora_weights(str(folder), **arguments, weight_name=temporary)
    return (Path(folder) / temporary).replace(Path(folder) / LORA)


def lora_name(part: str, layer: str) -> str:
    """A layer's name in LoRA files: those of CLIP's transformer always with `text_model.`."""
    inside = part in TEXT_ENCODERS and layer.startswith(("encoder.", "embeddings."))
    return f"{CLIP}{layer}" if inside else layer


def pad_parts(parts: dict[str, dict[str, tuple]]) -> dict[str, dict[str, tuple]]:
    """`pad_factors` over all parts at once: one rank for the whole file."""
    joint = pad_factors({(part, name): pair for part, own in parts.items() for name, pair in own.items()})
    return {part: {name: joint[part, name] for name in own} for part, own in parts.items()}


def pad_factors(factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """LoRA factors A (r, ...) and B (m, r, ...) of each layer, padded with zeros to the highest rank of all."""
    r, padded = max(len(A) for A, _ in factors.values()), {}
    for name, (A, B) in factors.items():
        missing = r - len(A)
        zeros = A.new_zeros(missing, *A.shape[1:]), B.new_zeros(len(B), missing, *B.shape[2:])
        padded[name] = torch.cat([A, zeros[0]]), torch.cat([B, zeros[1]], 1)
    return padded


@contextlib.contextmanager
def switched_off(pipe) -> Iterator[None]:
    """The base model, for the time of the block."""
    switch_adapters(pipe, False)
    try:
        yield
    finally:
        switch_adapters(pipe, True)
