"""An adapter in the formats that others load: diffusers LoRA, kohya (ComfyUI, A1111), merged, single file."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from ..adapter.files import save_atomic
from ..adapter.merging import updates_of
from ..adapter.shrink import Shrunk, distance, shrink
from ..adapter.switch import fold
from ..adapter.updates import (
    PRECISIONS,
    STORED,
    Update,
    check_precision,
    inner,
    precision_for_others,
    rounded,
)
from .concepts import name_of, phrase
from .concepts.files import SUFFIXES
from .families import drawing_defaults
from .folders import save_folder
from .generate import draw
from .headers import facts_of, kohya_header
from .kohya import kohya_layers, kohya_state, model_kind
from .lora import has_lora, kind_of, save_lora
from .naming import kohya_file
from .narrow import narrowed
from .pipeline import adapted_parts, save_adapters
from .single_file import SINGLE, check_single_file, save_single_file

WHOLE = ("merged", "single-file")  # models without an adapter
FORMATS = ("native", "diffusers", "kohya", *WHOLE)
Warn = Callable[[str], None]


def shrink_parts(pipe, energy: float, adapter_name: str = "default") -> Shrunk:
    """`shrink` of an adapter in all parts of a pipeline, in place."""
    models = adapted_parts(pipe, adapter_name).values()
    return sum((shrink(model, energy, adapter_name=adapter_name) for model in models), Shrunk())


def rounding(pipe, format: str, precision: str, adapter_name: str = "default") -> float:
    """||D' - D||_F / ||D||_F of the update D = U R V^T as a native or a LoRA file of that precision holds it."""
    known = STORED if format == "native" else PRECISIONS
    check_precision(precision, known)
    total, dtype = Shrunk(), known[precision]
    for model in adapted_parts(pipe, adapter_name).values():
        for name, update in updates_of(model, adapter_name).items():
            U, R, V = update
            if format == "native":
                kept = rounded(U, R, V, dtype, name)
            else:
                A, B = narrowed(V.T, U @ R, dtype)
                kept = Update(B.float(), torch.eye(len(A)).to(U), A.T.float())
            total += Shrunk(changed=distance(update, kept), whole=inner(update, update))
    return total.error


def compress_measured(pipe, energy: float, adapter_name: str = "default", pictures: int = 4) -> str:
    """`shrink_parts`, and in words what it changes: ranks, bytes of the native file, and pictures of the concept."""
    about = next(iter(adapted_parts(pipe, adapter_name).values())).peft_config[adapter_name].about
    words = [name_of(c) for c in about.get("concept") or [] if not c.lower().endswith(SUFFIXES)] or [""]
    prompts = [phrase(words[k % len(words)] or None, None, k) for k in range(pictures)]
    steps = drawing_defaults(pipe).erasing
    drawn = draw(pipe, prompts, range(pictures), steps)
    small = shrink_parts(pipe, energy, adapter_name)
    change = (draw(pipe, prompts, range(pictures), steps) - drawn).abs().mean().item()
    return f"{small.words()}; {pictures} pictures drawn with it change by {255 * change:.2f} of 255 levels per pixel"


def save_kohya(
    pipe,
    folder: Path,
    adapter_name: str = "default",
    precision: str = "fp16",
    everything: bool = False,
    warn: Warn = warnings.warn,
) -> Path:
    """Writes <model>_without_<concept>_kohya.safetensors and returns it; says what is left out of it.

    Raises:
        ValueError: as `kohya_layers`.
    """
    layers = kohya_layers(pipe, adapter_name, everything)
    about = {**facts_of(pipe, adapter_name), "precision": precision}
    state, file = kohya_state(layers.factors, PRECISIONS[precision]), folder / kohya_file(about)
    save_atomic(state, file, kohya_header(pipe, model_kind(pipe), layers, state, about, file.stem))
    if layers.left_out:
        warn(layers.words())
    return file


def save_loras(pipe, folder: Path, warn: Warn = warnings.warn, precision: str = "int8") -> None:
    """The files for others beside a native adapter: diffusers' LoRA and kohya's, where there are such for the model."""
    precision = precision_for_others(precision)
    if has_lora(pipe):
        save_lora(pipe, folder, precision=precision)
    if kind_of(pipe) is None:
        return
    try:
        save_kohya(pipe, folder, precision=precision, warn=warn)
    except ValueError as error:  # it adapts nothing but layers that kohya files leave out, or a text encoder they lack
        warn(f"no kohya file: {error}")


def export(
    pipe,
    folder: str | Path,
    format: str = "diffusers",
    uniform: bool = False,
    adapter_name: str = "default",
    precision: str | None = None,
    everything: bool = False,
    warn: Warn = warnings.warn,
) -> Path:
    """Writes the adapter that a pipeline carries, and returns the file or folder.

    "merged" and "single-file" fold it into the pipeline and write the whole model: a diffusers folder, or one file in
    the layout of the original Stable Diffusion code.

    Args:
        uniform: Pad all LoRA factors to one rank, for diffusers older than 0.36.
        precision: fp32, fp16 or bf16, and int8 for a native adapter; by default int8 for that, fp16 for LoRA files, and
            the model's own for whole models. The R of a native adapter is in fp32 in any case.
        everything: Keep layers in a kohya file that some programs pass over; see `kohya_layers`.
        warn: Told what a file lacks.

    Raises:
        ValueError: an unknown format or precision, or a layer or model that the format cannot express.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    if precision is not None:
        check_precision(precision, STORED if format == "native" else PRECISIONS)
    if format == "single-file":
        check_single_file(pipe)
    if format == "kohya":
        model_kind(pipe)  # refuses before a folder is made
    folder.mkdir(parents=True, exist_ok=True)
    if format == "native":
        about = next(iter(adapted_parts(pipe, adapter_name).values())).peft_config[adapter_name].about
        return save_adapters(pipe, folder, about, adapter_name, precision or "int8")
    if format == "diffusers":
        return save_lora(pipe, folder, adapter_name, uniform, precision or "fp16")
    if format == "kohya":
        return save_kohya(pipe, folder, adapter_name, precision or "fp16", everything, warn)
    for model in adapted_parts(pipe, adapter_name).values():
        fold(model, adapter_name)
    dtype = PRECISIONS.get(precision)
    if format == "single-file":
        return save_single_file(pipe, folder / SINGLE, dtype)
    return save_folder(pipe, folder, dtype)
