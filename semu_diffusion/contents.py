"""What is in an adapter file: format, layers, ranks, sizes, and what its header says."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .adapter.weights import WEIGHTS, config_from_json, open_weights

# The part of each layer whose first dimension is the rank, by format.
RANK_PARTS = {"semu": ".semu_R", "diffusers": ".lora_A.weight", "kohya": ".lora_down.weight"}


@dataclass
class Contents:
    """A file's format, ranks by layer, bytes, and the facts of its header."""

    file: str
    format: str
    bytes: int
    ranks: dict[str, int]
    about: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)


def read_contents(path: str | Path) -> Contents:
    """Reads names, shapes and header only; no tensor is loaded.

    Raises:
        ValueError: no such file, a damaged one, or none of our formats.
    """
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    with open_weights(file) as weights:
        shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
        metadata = weights.metadata() or {}
    form = next((f for f, part in RANK_PARTS.items() if any(key.endswith(part) for key in shapes)), None)
    if form is None:
        raise ValueError(f"{file} is neither a SEMU adapter nor a LoRA in diffusers or kohya names")
    part = RANK_PARTS[form]
    layer = lambda key: key.removesuffix(part).removeprefix("base_model.model.")  # noqa: E731
    ranks = {layer(key): shape[0] for key, shape in shapes.items() if key.endswith(part)}
    return Contents(str(file), form, file.stat().st_size, ranks, facts(form, metadata, str(file)))


def facts(form: str, metadata: dict[str, str], source: str) -> dict:
    """What the header says about the training; nothing for LoRA files."""
    if form != "semu" or "semu_config" not in metadata:
        return {}
    config = config_from_json(metadata["semu_config"], source)
    return {"gamma": config.gamma, "geometry": config.geometry, **config.about}


def depth_bars(ranks: dict[str, int], width: int = 24) -> list[tuple[str, int, str]]:
    """Block of the model -> mean rank and a bar of it, in the file's order."""
    total, count = Counter(), Counter()
    for name, rank in ranks.items():
        block = ".".join(name.removeprefix("unet.").removeprefix("transformer.").split(".")[:2])
        total[block] += rank
        count[block] += 1
    means = {block: total[block] / count[block] for block in total}
    top = max(means.values())
    return [(block, count[block], f"{mean:5.1f} {'█' * round(width * mean / top)}") for block, mean in means.items()]
