"""An adapter in the formats that others load: diffusers LoRA, kohya (ComfyUI, A1111), merged, single file."""

from __future__ import annotations

from pathlib import Path

import torch

from ..adapter.merging import compress_adapter, updates_of
from ..adapter.switch import fold
from ..adapter.weights import lora_factors, save_atomic, semu_layers
from .concepts import name_of, phrase
from .generate import draw
from .pipeline import TEXT_ENCODERS, adapted_parts, lora_name, save_adapters, save_lora
from .single_file import SINGLE, check_single_file, save_single_file

KOHYA = "semu_kohya.safetensors"
FORMATS = ("native", "diffusers", "kohya", "merged", "single-file")


def kohya_name(layer: str, prefix: str = "lora_unet") -> str:
    """The name that A1111 and ComfyUI look for: the diffusers path with dots as underscores."""
    return f"{prefix}_{layer.replace('.', '_')}"


def kohya_prefix(pipe, part: str) -> str:
    """lora_unet or lora_transformer; lora_te for the one text encoder of SD1/2, lora_te1 and lora_te2 for two."""
    if part not in TEXT_ENCODERS:
        return f"lora_{part}"
    several = getattr(pipe, "text_encoder_2", None) is not None
    return f"lora_te{TEXT_ENCODERS.index(part) + 1}" if several else "lora_te"


def kohya_state(pipe, adapter_name: str = "default") -> dict[str, torch.Tensor]:
    """down = V^T, up = r U R, alpha = 1, so that alpha / rank * up @ down = U R V^T.

    One constant alpha: diffusers' own reader of this format loses per-layer alphas on attention layers.
    """
    state = {}
    for part, model in adapted_parts(pipe, adapter_name).items():
        for name, (A, B) in lora_factors(model, adapter_name).items():
            key = kohya_name(lora_name(part, name), kohya_prefix(pipe, part))
            up, alpha = B * len(A), torch.tensor(1.0)
            state |= {f"{key}.lora_down.weight": A, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}
    return state


def compress_parts(pipe, energy: float, adapter_name: str = "default") -> tuple[int, int]:
    """Compresses the adapter of a pipeline in place; returns the sums of the ranks before and after."""
    models = adapted_parts(pipe, adapter_name).values()
    before = sum(layer.r[adapter_name] for model in models for layer in semu_layers(model, adapter_name).values())
    return before, sum(rank for model in models for rank in compress_adapter(model, energy, adapter_name).values())


def compress_measured(pipe, energy: float, adapter_name: str = "default", pictures: int = 4) -> str:
    """`compress_parts`, and in words what it changes: ranks, bytes of the native file, and pictures of the concept."""
    about = next(iter(adapted_parts(pipe, adapter_name).values())).peft_config[adapter_name].about
    words = [name_of(c) for c in about.get("concept") or [] if not c.endswith(".txt")] or [""]
    prompts = [phrase(words[k % len(words)] or None, None, k) for k in range(pictures)]
    drawn, sizes = [draw(pipe, prompts, range(pictures), steps=10)], [adapter_bytes(pipe, adapter_name)]
    before, after = compress_parts(pipe, energy, adapter_name)
    drawn, sizes = [*drawn, draw(pipe, prompts, range(pictures), steps=10)], [*sizes, adapter_bytes(pipe, adapter_name)]
    change = (drawn[1] - drawn[0]).abs().mean().item()
    return (
        f"ranks sum to {after} instead of {before}, {sizes[1]:,} bytes instead of {sizes[0]:,}; "
        f"{pictures} pictures drawn with it change by {255 * change:.2f} of 255 levels per pixel"
    )


def adapter_bytes(pipe, adapter_name: str = "default") -> int:
    """Bytes of an adapter's U, R and V."""
    parts = [updates_of(model, adapter_name) for model in adapted_parts(pipe, adapter_name).values()]
    return sum(4 * t.numel() for updates in parts for update in updates.values() for t in update)


def export(
    pipe,
    folder: str | Path,
    format: str = "diffusers",
    uniform: bool = False,
    adapter_name: str = "default",
    half: bool = False,
) -> Path:
    """Writes the adapter that a pipeline carries, and returns the file or folder.

    "merged" and "single-file" fold it into the pipeline and write the whole model: a diffusers folder, or one file in
    the layout of the original Stable Diffusion code.

    Args:
        uniform: Pad all LoRA factors to one rank, for diffusers older than 0.36.
        half: Write a single file in fp16.

    Raises:
        ValueError: an unknown format, or a layer or model that the format cannot express.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    if format == "single-file":
        check_single_file(pipe)
    folder.mkdir(parents=True, exist_ok=True)
    if format == "native":
        about = next(iter(adapted_parts(pipe, adapter_name).values())).peft_config[adapter_name].about
        return save_adapters(pipe, folder, about, adapter_name)
    if format == "diffusers":
        return save_lora(pipe, folder, adapter_name, uniform)
    if format == "kohya":
        save_atomic(kohya_state(pipe, adapter_name), folder / KOHYA)
        return folder / KOHYA
    for model in adapted_parts(pipe, adapter_name).values():
        fold(model, adapter_name)
    if format == "single-file":
        return save_single_file(pipe, folder / SINGLE, half)
    pipe.save_pretrained(folder)
    return folder
