"""What is in an adapter file: format, layers, ranks, sizes, and what its header and its folder say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..adapter.config import SemuConfig
from ..adapter.weights import CONFIG, LORA, WEIGHTS, config_from_json, open_weights, read_config
from ..diffusion import headers

# The part of each layer whose first dimension is the rank, by format.
RANK_PARTS = {"semu": ".semu_R", "diffusers": ".lora_A.weight", "kohya": ".lora_down.weight"}
SINGLE_FILE = "model.diffusion_model."
MODEL = "model_index.json"
PLACES = ("", "text_encoder", "text_encoder_2", "text_encoder_3")  # of an adapter folder's parts; "" the denoiser's
FACTS = ("base_model", *headers.FACTS)
TEXTS = ("base_model", "anchor", "method", "paper")  # facts that a header holds as they are
TECHNICAL = ("format", "lora_adapter_metadata", "semu_config")  # of a header; what is in them is shown otherwise
SCORES = ("UA", "IRA", "CRA", "neighbours", "context", "natural", "FID", "drift")
MOST_RESULTS = 2**24  # bytes of a results.json that is looked into


@dataclass
class Contents:
    """A file's format, ranks by layer, bytes, and the facts of its header and folder.

    Whole models have no ranks; `energy` is the share of the gradient that the bases keep, by layer; `scores` are rows
    "base" and "erased" of the last evaluation; `header` is what a LoRA file tells other programs; `notes` is what is
    odd about the files.
    """

    file: str
    format: str
    bytes: int
    ranks: dict[str, int]
    about: dict = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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
    # A folder's config is the one beside the weights, a lone file's the one in its header: as they are loaded.
    beside = path.is_dir()
    read = [(prefix, read_file(file, beside and file.name == WEIGHTS)) for prefix, file in files]
    first = read[0][1]
    ranks = {f"{prefix}{name}": rank for prefix, found in read for name, rank in found.ranks.items()}
    about = next((found.about for _, found in read if found.about), {})
    size = sum(found.bytes for _, found in read)
    energy, scores = folder_facts(files[0][1].parent)
    notes = [note for _, found in read for note in found.notes]
    return Contents(first.file, first.format, size, ranks, about, energy, scores, first.header, notes)


def adapter_files(path: Path) -> list[tuple[str, Path]]:
    """(prefix of the layers' names, file) for each part of an adapter."""
    if not path.is_dir():
        return [("", path)]
    places = [(f"{name}." if name else "", path / name / WEIGHTS) for name in PLACES]
    found = [(prefix, file) for prefix, file in places if file.is_file()]
    known = [path / LORA, *sorted(path.glob("*.safetensors"))]
    return found or [("", next((file for file in known if file.is_file()), path / WEIGHTS))]


def read_file(file: Path, beside: bool = False) -> Contents:
    """The contents of one `.safetensors` file, with the config that lies beside it or that of its header.

    Raises:
        ValueError: as `read_contents`.
    """
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
    found = Contents(str(file), form, file.stat().st_size, ranks)
    if form != "semu":
        found.header = {key: value for key, value in sorted(metadata.items()) if key not in TECHNICAL}
        found.about = header_facts(found.header)
        return found
    config = read_config(file.parent if beside else file)
    bases = {} if config.about.get("method") else {"gamma": config.gamma, "geometry": config.geometry}
    found.about = {**bases, **config.about}  # another method has none of SEMU's bases
    if beside and metadata.get("semu_config") and differs(metadata["semu_config"], config):
        found.notes.append(f"{file.name} says something else in its header than {CONFIG} beside it, which counts")
    return found


def merged_contents(folder: Path) -> Contents:
    """A diffusers folder with an update folded in: its size is all there is to see."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Contents(str(folder), "merged, a whole model", size, {})


def header_facts(header: dict[str, str]) -> dict:
    """The facts of `semu.*` fields as they were before they became text."""
    found = {}
    for key in FACTS:
        text = header.get(f"semu.{key}")
        if text is not None:
            try:
                found[key] = json.loads(text) if key not in TEXTS else text
            except (ValueError, RecursionError):
                found[key] = text
    return found


def differs(text: str, config: SemuConfig) -> bool:
    """Whether a header's config is another one, or none."""
    try:
        return config_from_json(text, "the header") != config
    except ValueError:
        return True


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
