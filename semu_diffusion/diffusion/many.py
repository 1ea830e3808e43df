"""Several adapters on one pipeline: at weights of their own, combined into one, or one erased on top of another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from ..adapter.config import SemuConfig, erased_concepts
from ..adapter.merging import Update, combine_adapters, interference, replace_adapters, updates_of
from ..adapter.switch import remove, set_strengths
from ..adapter.weights import put_adapter, semu_layers, write_atomic
from ..versions import versions
from .export import export
from .pipeline import component, has_lora, parts, read_adapters, save_adapters, save_lora
from .results import remove_reports

BEFORE = "before"  # the adapter that a new erasure stands on


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """The last part of each path without its ending, numbered where two are the same."""
    names: list[str] = []
    for path in paths:
        name = Path(path).stem if str(path).endswith(".safetensors") else Path(path).name
        name = (name or "adapter").replace(".", "_")  # PEFT allows no dots
        taken = sum(other == name or other.rpartition("-")[0] == name for other in names)
        names.append(f"{name}-{taken + 1}" if taken else name)
    return names


def load_adapters(
    pipe, paths: Mapping[str, str | Path] | Sequence[str | Path], weights: Sequence[float] | None = None
) -> dict[str, SemuConfig]:
    """Puts several adapters on a pipeline, all active at their weights (1 unless given).

    Everything is read and checked before the pipeline is touched. `set_weights` changes the weights later.

    Args:
        paths: Name -> folder or file; or folders alone, whose names then are those of the adapters.

    Raises:
        ValueError: as `load_adapter`; another number of weights; a name that is taken.
    """
    paths = dict(paths) if isinstance(paths, Mapping) else dict(zip(short_names(paths), paths))
    weights = [1.0] * len(paths) if weights is None else list(weights)
    if len(weights) != len(paths):
        raise ValueError(f"{len(weights)} weights for {len(paths)} adapters; give one for each")
    models, taken = parts(pipe), [n for m in parts(pipe).values() for n in getattr(m, "peft_config", None) or {}]
    again = next((name for name in paths if name in taken), None)
    if again:
        raise ValueError(f"the pipeline has an adapter named {again!r} already; choose another name")
    read = {name: read_adapters(pipe, path) for name, path in paths.items()}
    for name, own in read.items():
        for part, (config, layers) in own.items():
            put_adapter(models[part], config, layers, name)
    set_weights(pipe, dict(zip(paths, weights)))
    return {name: next(iter(own.values()))[0] for name, own in read.items()}


def set_weights(pipe, weights: Mapping[str, float]) -> None:
    """W + sum of weight * U R V^T over these adapters; those that are not named are off, as are all for {}.

    Raises:
        ValueError: a name that no part of the pipeline carries.
    """
    models = parts(pipe).values()
    loaded = (item for model in models for item in (getattr(model, "peft_config", None) or {}).items())
    known = {name: None for name, config in loaded if isinstance(config, SemuConfig)}
    unknown = next((name for name in weights if name not in known), None)
    if unknown:
        raise ValueError(f"no adapter named {unknown!r}; loaded: {', '.join(known) or 'none'}")
    for model in models:
        set_strengths(model, dict(weights))


# --------------------------------------------------------------------------------------------- merging


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
) -> dict:
    """Adds adapters of one base up into one, puts that on the pipeline and writes its folder.

    The folder holds the native adapter, its LoRA and kohya file, and results.json.

    Args:
        energy: Share of each layer's energy to keep; 1 is the exact sum.

    Returns:
        What results.json holds: the adapters, weights, layers, ranks and the interference matrices.

    Raises:
        ValueError: as `load_adapter`; adapters for different bases; nothing left.
    """
    names = list(names or short_names(paths))
    read = {name: read_adapters(pipe, path) for name, path in zip(names, paths)}
    configs = {name: next(iter(own.values()))[0] for name, own in read.items()}
    check_bases(configs)
    found = [
        {part: {k: Update(**v) for k, v in layers.items()} for part, (_, layers) in own.items()}
        for own in read.values()
    ]
    merged = {}
    for part in dict.fromkeys(part for own in found for part in own):
        merged[part] = combine_adapters([own.get(part, {}) for own in found], weights, energy)
    about = merged_about(configs, weights, energy, base_model)
    for part, updates in merged.items():
        layers = {k: u._asdict() for k, u in updates.items()}
        put_adapter(parts(pipe)[part], SemuConfig(about=about), layers)
    flat = [{f"{part}.{k}": u for part, layers in own.items() for k, u in layers.items()} for own in found]
    results = {
        **about,
        "layers": sum(map(len, merged.values())),
        "ranks": sum(len(u.R) for updates in merged.values() for u in updates.values()),
        "interference": {key: matrix.tolist() for key, matrix in interference(flat).items()},
        "versions": versions(),
    }
    write_merged(pipe, Path(output), about, results)
    return results


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


def write_merged(pipe, folder: Path, about: dict, results: dict) -> None:
    """The native adapter, its LoRA and kohya file where there are such, and results.json; older reports go first."""
    remove_reports(folder)
    save_adapters(pipe, folder, about)
    if has_lora(pipe):
        save_lora(pipe, folder)
        if component(pipe) == "unet":
            export(pipe, folder, "kohya")
    write_atomic(folder / "results.json", json.dumps(results, indent=1))


# ------------------------------------------------------------------------------------------- on top of


def load_before(pipe, path: str | Path) -> SemuConfig:
    """Puts a finished adapter under a name of its own on a pipeline from which more is to be erased.

    From then on the pipeline draws without what that adapter erases, so what it is taught to keep lacks it too.

    Raises:
        ValueError: as `load_adapter`.
    """
    return load_adapters(pipe, {BEFORE: path})[BEFORE]


def train_beside(model: nn.Module, adapter_name: str = "default") -> None:
    """Both adapters active, W + U_1 R_1 V_1^T + U R V^T, and only the new R trainable; after its injection."""
    set_strengths(model, {BEFORE: 1.0, adapter_name: 1.0})
    for layer in semu_layers(model, adapter_name).values():
        layer.semu_R[adapter_name].requires_grad_(True)


def join_before(pipe, adapter_name: str = "default") -> None:
    """The adapter that was stood on and the new one become one, under the new one's name, exactly their sum.

    Its config says in `about["before"]` what the first one had erased.
    """
    for model in parts(pipe).values():
        loaded = getattr(model, "peft_config", None) or {}
        if BEFORE not in loaded:
            continue
        old, both = loaded[BEFORE], [name for name in (BEFORE, adapter_name) if name in loaded]
        config = loaded.get(adapter_name) or SemuConfig(about={})
        config.about = {**config.about, "before": erased_concepts(old.about)}
        updates = combine_adapters([updates_of(model, name) for name in both])
        replace_adapters(model, both, updates, config, adapter_name)


def leave_before(pipe) -> None:
    """Takes the adapter that was stood on off again, where an erasure could not begin."""
    for model in parts(pipe).values():
        if BEFORE in (getattr(model, "peft_config", None) or {}):
            remove(model, BEFORE)
