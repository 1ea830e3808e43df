"""Several adapters of one base added up into one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..adapter.config import SemuConfig, erased_concepts
from ..adapter.merging import Update, combine_adapters, interference
from ..adapter.weights import put_adapter, write_atomic
from ..versions import versions
from .export import Warn, save_loras
from .multi_adapter import short_names
from .pipeline import parts, read_adapters, save_adapters
from .results import remove_reports


def check_bases(configs: Mapping[str, SemuConfig]) -> None:
    """ValueError where two adapters say that they were made for different base models."""
    first, *others = [(name, c.about["base_model"]) for name, c in configs.items() if c.about.get("base_model")] or [()]
    for name, base in others:
        if Path(base).name != Path(first[1]).name:
            raise ValueError(f"{first[0]} was made for {first[1]}, but {name} for {base}; merge adapters of one base")


def merge_adapters(
    pipe,
    paths: Sequence[str | Path],
    output: str | Path,
    weights: Sequence[float] | None = None,
    energy: float = 1.0,
    base_model: str = "",
    names: Sequence[str] | None = None,
    warn: Warn = warnings.warn,
) -> dict:
    """Adds adapters of one base up into one, puts that on the pipeline and writes its folder.

    The folder holds the native adapter, its LoRA and kohya file, and results.json.

    Args:
        energy: Share of each layer's energy to keep; 1 is the exact sum.
        warn: Told what the files for others lack.

    Returns:
        What results.json holds: the adapters, weights, layers, ranks and the interference matrices.

    Raises:
        ValueError: as `load_adapter`; adapters for different bases; nothing left.
    """
    names = list(names or short_names(paths))
    configs, found = read_updates(pipe, dict(zip(names, paths)))
    merged = {}
    for part in dict.fromkeys(part for own in found for part in own):
        merged[part] = combine_adapters([own.get(part, {}) for own in found], weights, energy)
    about = merged_about(configs, weights, energy, base_model)
    for part, updates in merged.items():
        layers = {k: u._asdict() for k, u in updates.items()}
        put_adapter(parts(pipe)[part], SemuConfig(about=about), layers)
    results = {
        **about,
        "layers": sum(map(len, merged.values())),
        "ranks": sum(len(u.R) for updates in merged.values() for u in updates.values()),
        "interference": matrices(found),
        "versions": versions(),
    }
    write_merged(pipe, Path(output), about, results, warn)
    return results


def read_updates(
    pipe, paths: Mapping[str, str | Path]
) -> tuple[dict[str, SemuConfig], list[dict[str, dict[str, Update]]]]:
    """Configs by name, and the updates of each adapter by part and layer.

    Raises:
        ValueError: as `load_adapter`; adapters for different bases.
    """
    read = {name: read_adapters(pipe, path) for name, path in paths.items()}
    configs = {name: next(iter(own.values()))[0] for name, own in read.items()}
    check_bases(configs)
    updates = [
        {part: {k: Update(**v) for k, v in layers.items()} for part, (_, layers) in own.items()}
        for own in read.values()
    ]
    return configs, updates


def matrices(found: Sequence[dict[str, dict[str, Update]]]) -> dict[str, list[list[float]]]:
    """`adapter.merging.interference` over all parts, as nested lists."""
    flat = [{f"{part}.{k}": u for part, layers in own.items() for k, u in layers.items()} for own in found]
    return {key: matrix.tolist() for key, matrix in interference(flat).items()}


def merged_about(
    configs: Mapping[str, SemuConfig], weights: Sequence[float] | None, energy: float, base_model: str
) -> dict:
    """The facts of a merged adapter: every concept of its parts, each once."""
    concepts = [c for config in configs.values() for c in erased_concepts(config.about)]
    stated = (c.about["base_model"] for c in configs.values() if c.about.get("base_model"))
    return {
        "base_model": base_model or next(stated, ""),
        "concept": list(dict.fromkeys(concepts)),
        "merged": list(configs),
        "weights": list(weights or [1.0] * len(configs)),
        "energy": energy,
    }


def write_merged(pipe, folder: Path, about: dict, results: dict, warn: Warn) -> None:
    """The native adapter, its LoRA and kohya file where there are such, and results.json; older reports go first."""
    remove_reports(folder)
    save_adapters(pipe, folder, about)
    save_loras(pipe, folder, warn)
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
