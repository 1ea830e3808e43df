"""What is in an adapter file: format, layers, ranks, sizes, and what its header and its folder say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..adapter.weights import CONFIG, LORA, WEIGHTS, config_from_json, open_weights, read_config

# The part of each layer whose first dimension is the rank, by format.
RANK_PARTS = {"semu": ".semu_R", "diffusers": ".lora_A.weight", "kohya": ".lora_down.weight"}
SINGLE_FILE = "model.diffusion_model."
MODEL = "model_index.json"
PLACES = ("", "text_encoder", "text_encoder_2", "text_encoder_3")  # of an adapter folder's parts; "" the denoiser's
FACTS = (
    "base_model", "concept", "before", "anchor", "merged", "weights", "gamma", "geometry", "objective", "steps", "seed",
)  # fmt: skip
SCORES = ("UA", "IRA", "CRA", "neighbours", "context", "natural", "FID", "drift")
MOST_RESULTS = 2**24  # bytes of a results.json that is looked into


@dataclass
class Contents:
    """A file's format, ranks by layer, bytes, and the facts of its header and folder.

    Whole models have no ranks; `energy` is the share of the gradient that the bases keep, by layer; `scores` are rows
    "base" and "erased" of the last evaluation.
    """

    file: str
    format: str
    bytes: int
    ranks: dict[str, int]
    about: dict = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)

    def headline(self) -> str:
        """The line above the tables."""
        if not self.ranks:
            return f"{self.file}: {self.format}, {self.bytes:,} bytes"
        total = sum(self.ranks.values())
        return f"{self.file}: {self.format}, {self.bytes:,} bytes, {len(self.ranks)} layers, ranks sum to {total}"


def read_contents(path: str | Path) -> Contents:
    """Reads names, shapes and header only; no tensor is loaded.

    Args:
        path: A folder or file of `semu erase`, `semu merge` or `semu export`, in any format.

    Raises:
        ValueError: no such file, a damaged one, or none of our formats.
    """
    path = Path(path)
    if path.is_dir() and (path / MODEL).is_file():
        return merged_contents(path)
    files = adapter_files(path)
    read = [(prefix, read_file(file)) for prefix, file in files]
    first = read[0][1]
    ranks = {f"{prefix}{name}": rank for prefix, found in read for name, rank in found.ranks.items()}
    about = next((found.about for _, found in read if found.about), {})
    size = sum(found.bytes for _, found in read)
    return Contents(first.file, first.format, size, ranks, about, *folder_facts(files[0][1].parent))


def adapter_files(path: Path) -> list[tuple[str, Path]]:
    """(prefix of the layers' names, file) for each part of an adapter."""
    if not path.is_dir():
        return [("", path)]
    places = [(f"{name}." if name else "", path / name / WEIGHTS) for name in PLACES]
    found = [(prefix, file) for prefix, file in places if file.is_file()]
    known = [path / LORA, *sorted(path.glob("*.safetensors"))]
    return found or [("", next((file for file in known if file.is_file()), path / WEIGHTS))]


def read_file(file: Path) -> Contents:
    """The contents of one `.safetensors` file. ValueError as `read_contents`."""
    with open_weights(file) as weights:
        shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
        metadata = weights.metadata() or {}
    form = next((f for f, part in RANK_PARTS.items() if any(key.endswith(part) for key in shapes)), None)
    if form is None and any(key.startswith(SINGLE_FILE) for key in shapes):
        return Contents(str(file), "single file, a whole model", file.stat().st_size, {})
    if form is None:
        raise ValueError(f"{file} is neither a SEMU adapter nor a LoRA in diffusers or kohya names, nor a whole model")
    part = RANK_PARTS[form]
    layer = lambda key: key.removesuffix(part).removeprefix("base_model.model.")  # noqa: E731
    ranks = {layer(key): shape[0] for key, shape in shapes.items() if key.endswith(part) and shape and shape[0]}
    if not ranks:
        raise ValueError(f"{file} holds no layer of rank 1 or more")
    return Contents(str(file), form, file.stat().st_size, ranks, facts(form, metadata, file))


def merged_contents(folder: Path) -> Contents:
    """A diffusers folder with an update folded in: its size is all there is to see."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Contents(str(folder), "merged, a whole model", size, {})


def facts(form: str, metadata: dict[str, str], file: Path) -> dict:
    """What the header, or the config beside, says about the training; nothing for LoRA files."""
    if form != "semu":
        return {}
    if "semu_config" in metadata:
        config = config_from_json(metadata["semu_config"], str(file))
    elif (file.parent / CONFIG).is_file():
        config = read_config(file.parent)
    else:
        return {}
    return {"gamma": config.gamma, "geometry": config.geometry, **config.about}


def folder_facts(folder: Path) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Energy by layer, and base and erased scores, of the results.json beside an adapter; empty where there are none.

    The file comes from strangers, like the adapter: only numbers are taken from it.
    """
    file = folder / "results.json"
    if not file.is_file() or file.stat().st_size > MOST_RESULTS:
        return {}, {}
    try:
        results = json.loads(file.read_text())
        numbers = lambda row: {k: v for k, v in row.items() if isinstance(v, (int, float))}  # noqa: E731
        energy = numbers((results.get("training") or {}).get("energy") or {})
        evaluation = results.get("evaluation") or {}
        scores = {side: numbers(evaluation[side]) for side in ("base", "erased") if side in evaluation}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}, {}
    return energy, {side: {k: row[k] for k in SCORES if k in row} for side, row in scores.items()}


# ---------------------------------------------------------------------------------------------- depth
