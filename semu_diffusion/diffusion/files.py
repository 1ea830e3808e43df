"""What the files of a pipeline say before a weight is read: its class, its variants, what is missing, its dtypes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import torch

from ..adapter.claims import read_json

WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(?:\.(?P<variant>[\w-]+?))?(-\d+-of-\d+)?\.(safetensors|bin)")
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # in safetensors headers


def read_index(file: Path) -> dict:
    """A `model_index.json`; {} where it holds something else. ValueError where it cannot be read."""
    index = read_json(file)
    return index if isinstance(index, dict) else {}


def check_configs(folder: Path) -> None:
    """ValueError where a component's configuration is damaged."""
    for part in sorted(folder.glob("*/*config.json")):
        if not isinstance(read_json(part), dict):
            raise ValueError(f"{part} holds no configuration; download the model's folder again")


def check_shards(folder: Path, variant: str | None, model: str) -> None:
    """ValueError that names the first file that a component's list of shards has and its folder has not."""
    for listing in sorted(folder.glob("*/*.safetensors.index*.json")):
        named = listing.name.partition(".safetensors.index")[2].removesuffix("json").strip(".")
        if named == (variant or ""):
            shards = sorted(set(read_json(listing).get("weight_map", {}).values()))
            missing = next((shard for shard in shards if not (listing.parent / shard).is_file()), None)
            if missing:
                raise ValueError(
                    f"{model} is incomplete: {listing.parent.name}/{missing} is missing; download it again"
                )


def choose_variant(files: list[str], wanted: str | None, model: str) -> str | None:
    """The variant of the denoiser's files to load: the wanted one, else none where there are plain files, else the
    only one.

    Raises:
        ValueError: no such variant, or several to choose from, which are named; no safetensors.
    """
    own = [f.rpartition("/")[2] for f in files if f.startswith(("unet/", "transformer/"))]
    found = [match for name in own if (match := WEIGHTS.fullmatch(name))]
    safe = {match["variant"] for match in found if match[4] == "safetensors"}
    if found and not safe:
        raise ValueError(
            f"{model} has no .safetensors weights; weights in .bin may run code when they are read, so convert them"
        )
    names = ", ".join(sorted(v for v in safe if v)) or "none"
    if wanted is not None:
        if safe and wanted not in safe:
            raise ValueError(f"{model} has no variant {wanted!r}; there are: {names}")
        return wanted
    if None in safe or not safe:
        return None
    if len(safe) > 1:
        raise ValueError(f"{model} has no plain weights but several variants; choose one with --variant: {names}")
    return safe.pop()


def variant_of(name: str) -> str | None:
    """The variant in the name of a file of weights."""
    match = WEIGHTS.fullmatch(name)
    return match["variant"] if match else None


def stored_dtype(files: list[Path]) -> torch.dtype:
    """The floating point type of most numbers in safetensors files, by their headers; fp32 where there are none."""
    from safetensors import SafetensorError, safe_open

    sizes: Counter[torch.dtype] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                for key in weights.keys():  # noqa: SIM118
                    part = weights.get_slice(key)
                    if part.get_dtype() in STORED:
                        sizes[STORED[part.get_dtype()]] += torch.Size(part.get_shape()).numel()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is not a whole safetensors file ({error}); download it again") from None
    return sizes.most_common(1)[0][0] if sizes else torch.float32
