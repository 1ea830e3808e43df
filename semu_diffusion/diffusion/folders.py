"""A whole pipeline as a diffusers folder that older and newer libraries, and ComfyUI, read alike.

Transformers 5.6 left `text_model.` out of the names in a CLIP's file, and version 5 writes tokenizer.json alone. Older
versions then load random weights in silence, or fail for want of vocab.json, and ComfyUI encodes NaN; both of the
older ways are read by all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch

from ..adapter.files import save_atomic, write_atomic
from .pipeline import base_name, model_path
from .single_file import clip_state

CLIPS = ("CLIPTextModel", "CLIPTextModelWithProjection")


def save_folder(pipe, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """`pipe.save_pretrained`, in another floating-point type on request, in the names that all versions read.

    Text encoders keep their type: unless they are told one, transformers 5 loads the type that is stored and diffusers
    fp32, and the two must meet.
    """
    if dtype is not None:
        for part in (m for m in pipe.components.values() if isinstance(m, diffusers.ModelMixin)):
            part.to(dtype)
    pipe.save_pretrained(folder)
    for name, part in pipe.components.items():
        if type(part).__name__ in CLIPS and (folder / name / "model.safetensors").is_file():
            save_atomic(clip_state(part), folder / name / "model.safetensors")
        if (folder / name / "tokenizer.json").is_file():
            split_tokenizer(folder / name)
    names = Path(model_path(base_name(pipe))) / "vocabulary.json"
    if isinstance(getattr(pipe, "unet", None), diffusers.UNet2DModel) and base_name(pipe) and names.is_file():
        write_atomic(folder / names.name, names.read_text("utf-8"))  # without it, classes go by number alone
    mode = (folder / "model_index.json").stat().st_mode
    for file in folder.rglob("*.safetensors"):
        file.chmod(mode)  # safetensors' own files are for their owner only
    return folder


def split_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt from the tokenizer.json of a byte-pair tokenizer, as CLIP's; nothing for others."""
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    if model.get("type") != "BPE":
        return
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_atomic(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    write_atomic(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
