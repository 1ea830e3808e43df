"""Pipelines: load one with clear errors, put an adapter on it, write it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ..adapter.config import SemuConfig
from ..adapter.switch import all_off, remove, set_strength, switch
from ..adapter.weights import CONFIG, WEIGHTS, put_adapter, read_adapter, save_adapter, semu_layers

EMBEDDED = "pictograms"  # where no model is named
SHIPPED = (EMBEDDED, "cifar10")  # folders of ASSETS, which go by these names
ASSETS = Path(__file__).parent.parent / "assets"
CLIP = "text_model."  # LoRA files have it in the names of a CLIP's layers; models lack it since transformers 5.6
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
EXPERTS = ("transformer_2",)  # the second denoiser of those that have two
PARTS = (*EXPERTS, *TEXT_ENCODERS)  # that may carry an adapter beside the denoiser, each in a folder of its name
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")


def model_path(model: str) -> str:
    """The folder of a shipped model's name; anything else as it is."""
    return str(ASSETS / model) if model in SHIPPED else model


def shipped_name(model: str) -> str:
    """The name of a shipped model's folder; anything else as it is."""
    own = (name for name in SHIPPED if model and Path(model).resolve() == (ASSETS / name).resolve())
    return next(own, model)


def is_embedded(model: str) -> bool:
    """Whether this is the embedded model, by its name or by its folder."""
    return shipped_name(model) == EMBEDDED


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
    """The models of a pipeline that may carry an adapter: the denoiser first, then a second one, its text encoders."""
    others = {name: model for name in PARTS if isinstance(model := getattr(pipe, name, None), nn.Module)}
    return {component(pipe): denoiser(pipe), **others}


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
    places = {name: path / name for name in PARTS if begun(path / name)}
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

    Other adapters, LoRAs too, stay as they are. Everything is read and checked before the pipeline is touched.
    Returns the config of the first part.

    Raises:
        ValueError: a missing or damaged file, or an adapter for another model (names the first layer that differs).
    """
    read = read_adapters(pipe, path)
    for name, (config, layers) in read.items():
        put_adapter(parts(pipe)[name], config, layers, adapter_name)
    set_scale(pipe, scale, adapter_name)
    return next(iter(read.values()))[0]


def save_adapters(
    pipe,
    folder: str | Path,
    about: dict | None = None,
    adapter_name: str = "default",
    precision: str = "fp32",
) -> Path:
    """The denoiser's adapter into the folder, each text encoder's into a subfolder of its name; returns the folder.

    Raises:
        ValueError: the pipeline has no such adapter, or one that the precision (`save_adapter`) cannot hold.
    """
    adapted, folder = adapted_parts(pipe, adapter_name), Path(folder)
    places = {component(pipe): folder, **{name: folder / name for name in PARTS}}
    for name, place in places.items():
        if name in adapted:
            save_adapter(adapted[name], place, adapter_name, about, precision)
        else:  # of an earlier adapter, and would be loaded with this one
            for file in (WEIGHTS, CONFIG):
                (place / file).unlink(missing_ok=True)
    return folder


def remove_adapter(pipe, adapter_name: str = "default") -> None:
    """Takes an adapter off every part of the pipeline that carries it."""
    for model in parts(pipe).values():
        if adapter_name in (getattr(model, "peft_config", None) or {}):
            remove(model, adapter_name)


def set_scale(pipe, scale: float, adapter_name: str = "default") -> None:
    """W + scale * U R V^T from now on, in every part that the adapter changes, beside whatever else is on."""
    for model in adapted_parts(pipe, adapter_name).values():
        set_strength(model, scale, adapter_name)


def switch_adapters(pipe, on: bool) -> None:
    """All SEMU adapters of the pipeline on, or off: the base model."""
    for model in parts(pipe).values():
        if getattr(model, "peft_config", None):
            switch(model, on)


def lora_name(part: str, layer: str) -> str:
    """A layer's name in LoRA files: those of CLIP's transformer always with `text_model.`."""
    inside = part in TEXT_ENCODERS and layer.startswith(("encoder.", "embeddings."))
    return f"{CLIP}{layer}" if inside else layer


@contextlib.contextmanager
def switched_off(pipe) -> Iterator[None]:
    """The base model, for the time of the block."""
    with contextlib.ExitStack() as stack:
        for model in parts(pipe).values():
            stack.enter_context(all_off(model))
        yield
