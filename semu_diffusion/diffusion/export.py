"""An adapter in the formats that others load: diffusers LoRA, kohya (ComfyUI, A1111), merged, single file."""

from __future__ import annotations

from pathlib import Path

import torch

from ..adapter.subspace import Basis, truncate
from ..adapter.switch import fold
from ..adapter.weights import lora_factors, save_atomic, semu_layers
from .pipeline import component, denoiser, save_lora

KOHYA = "semu_kohya.safetensors"
FORMATS = ("diffusers", "kohya", "merged")


def kohya_name(layer: str, prefix: str = "lora_unet") -> str:
    """The name that A1111 and ComfyUI look for: the diffusers path with dots as underscores."""
    return f"{prefix}_{layer.replace('.', '_')}"


def kohya_state(pipe, adapter_name: str = "default") -> dict[str, torch.Tensor]:
    """down = V^T, up = r U R, alpha = 1, so that alpha / rank * up @ down = U R V^T.

    One constant alpha: diffusers' own reader of this format loses per-layer alphas on attention layers.
    """
    state, prefix = {}, f"lora_{component(pipe)}"
    for name, (A, B) in lora_factors(denoiser(pipe), adapter_name).items():
        key = kohya_name(name, prefix)
        state |= {f"{key}.lora_down.weight": A, f"{key}.lora_up.weight": B * len(A), f"{key}.alpha": torch.tensor(1.0)}
    return state


def compress(U: torch.Tensor, R: torch.Tensor, V: torch.Tensor, energy: float) -> tuple[Basis, torch.Tensor]:
    """The update U R V^T truncated to the smallest rank that keeps `energy` of it, and its new R = diag(S).

    QR of the factors brings it down to an (r, r) SVD; no (m, n) matrix is built.

    Raises:
        ValueError: energy outside (0, 1].
    """
    if not 0 < energy <= 1:
        raise ValueError(f"the energy to keep must be in (0, 1], got {energy}")
    QU, TU = torch.linalg.qr(U)
    QV, TV = torch.linalg.qr(V)
    core = truncate(TU @ R @ TV.T, energy)
    return Basis(QU @ core.U, core.S, QV @ core.V, core.energy), torch.diag(core.S)


def compress_adapter(model, energy: float, adapter_name: str = "default") -> dict[str, int]:
    """Compresses every layer of an injected adapter in place; returns the new ranks."""
    for layer in semu_layers(model, adapter_name).values():
        U, R, V = (getattr(layer, f"semu_{part}")[adapter_name] for part in "URV")
        basis, core = compress(U, R.detach(), V, energy)
        layer.set_basis(adapter_name, basis.U, basis.V, core)
    config = model.peft_config[adapter_name]
    config.ranks = {name: layer.r[adapter_name] for name, layer in semu_layers(model, adapter_name).items()}
    config.target_modules = list(config.ranks)
    return config.ranks


def export(
    pipe, folder: str | Path, format: str = "diffusers", uniform: bool = False, adapter_name: str = "default"
) -> Path:
    """Writes the adapter that a pipeline carries; "merged" folds it into the pipeline and writes the whole model.

    Args:
        uniform: Pad all LoRA factors to one rank, for diffusers older than 0.36.

    Raises:
        ValueError: an unknown format, or a convolution that LoRA cannot express.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    if format == "diffusers":
        return save_lora(pipe, folder, adapter_name, uniform)
    if format == "kohya":
        save_atomic(kohya_state(pipe, adapter_name), folder / KOHYA)
        return folder / KOHYA
    fold(denoiser(pipe), adapter_name)
    pipe.save_pretrained(folder)
    return folder
