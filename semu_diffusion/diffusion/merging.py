"""Several adapters of one base made one: fused in closed form, or added up."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..adapter.config import SemuConfig
from ..adapter.merging import combine_adapters, interference
from ..adapter.shrink import shrink
from ..adapter.updates import Update, check_energy, check_precision
from ..adapter.weights import WEIGHTS, put_adapter, write_atomic
from ..callbacks import Callback
from ..versions import versions
from .concepts.language import series
from .export import Warn, save_loras
from .fusing import fuse
from .multi_adapter import short_names
from .naming import made_with
from .pipeline import adapter_places, parts, read_adapters, save_adapters
from .results import remove_reports
from .scene import Given

WAYS = ("fuse", "sum")
ENERGY = {"fuse": 0.95, "sum": 1.0}  # share of each layer's energy that is kept, unless told


def check_bases(configs: Mapping[str, SemuConfig]) -> None:
    """ValueError where two adapters say that they were made for different base models."""
    first, *others = [(name, c.about["base_model"]) for name, c in configs.items() if c.about.get("base_model")] or [()]
    for name, base in others:
        if Path(base).name != Path(first[1]).name:
            raise ValueError(f"{first[0]} was made for {first[1]}, but {name} for {base}; merge adapters of one base")


def hash_of(path: str | Path) -> str:
    """SHA-256 of an adapter's weights: of its one file as `sha256sum` gives it, or of all of them together."""
    digest = hashlib.sha256()
    for place in adapter_places(path).values():
        digest.update((place / WEIGHTS if place.is_dir() else place).read_bytes())
    return digest.hexdigest()


def parts_of(given: Given) -> list[dict]:
    """What an adapter consists of, itself or what it was merged from: name, concepts, SHA-256 and strength of each."""
    known, weight = given.config.about.get("parts"), given.weight
    if isinstance(known, list) and all(
        isinstance(part, dict) and isinstance(part.get("sha256"), str) for part in known
    ):
        return [{**part, "weight": weight * part.get("weight", 1.0)} for part in known]
    return [{"name": given.name, "concept": given.concepts, "sha256": given.digest, "weight": weight}]


def check_once(adapters: Sequence[Given]) -> None:
    """ValueError where two adapters are the same file, or one is already in another."""
    seen: dict[str, str] = {}
    for given in adapters:
        for digest in dict.fromkeys([given.digest, *(part["sha256"] for part in parts_of(given))]):
            if digest in seen:
                both = f"{seen[digest]} and {given.name}"
                raise ValueError(f"{both} hold the same adapter (sha256 {digest[:12]}); give each one once")
            seen[digest] = given.name


def told_of_layers(adapters: Sequence[Given]) -> str:
    """A sentence where adapters change different layers; else ""."""
    own = {given.name: {(p, k) for p, layers in given.updates.items() for k in layers} for given in adapters}
    every = set().union(*own.values())
    if all(layers == every for layers in own.values()):
        return ""
    counts = ", ".join(f"{name} {len(layers)}" for name, layers in own.items())
    return f"the adapters change different layers ({counts}, together {len(every)}), each only its own"


def read_all(
    pipe, paths: Sequence[str | Path], names: Sequence[str] | None = None, weights: Sequence[float] | None = None
) -> list[Given]:
    """The adapters, compared with the pipeline's models and with each other. ValueError as `merge_adapters`."""
    names = list(names or short_names(paths))
    weights = [1.0] * len(names) if weights is None else list(weights)
    if len(weights) != len(names):
        raise ValueError(f"{len(weights)} weights for {len(names)} adapters; give one for each")
    read = [read_adapters(pipe, path) for path in paths]
    configs = [next(iter(own.values()))[0] for own in read]
    check_bases(dict(zip(names, configs)))
    updates = [{part: {k: Update(**v) for k, v in layers.items()} for part, (_, layers) in own.items()} for own in read]
    adapters = [Given(*each) for each in zip(names, configs, updates, weights, map(hash_of, paths))]
    check_once(adapters)
    return adapters


def matrices(adapters: Sequence[Given]) -> dict[str, list[list[float]]]:
    """`adapter.merging.interference` over all parts, as nested lists."""
    flat = [{f"{part}.{k}": u for part, layers in g.updates.items() for k, u in layers.items()} for g in adapters]
    return {key: matrix.tolist() for key, matrix in interference(flat).items()}


def added_up(adapters: Sequence[Given], energy: float) -> dict[str, dict[str, Update]]:
    """The weighted sum by part and layer."""
    every, weights = dict.fromkeys(part for given in adapters for part in given.updates), [g.weight for g in adapters]
    return {part: combine_adapters([g.updates.get(part, {}) for g in adapters], weights, energy) for part in every}


def merge_adapters(
    pipe,
    paths: Sequence[str | Path],
    output: str | Path,
    weights: Sequence[float] | None = None,
    energy: float | None = None,
    base_model: str = "",
    names: Sequence[str] | None = None,
    warn: Warn = warnings.warn,
    way: str = "fuse",
    precision: str = "int8",
    callback: Callback | None = None,
) -> dict:
    """Makes one of adapters of one base, puts it on the pipeline and writes its folder.

    The folder holds the native adapter, its LoRA and kohya file, and results.json. An adapter that was merged itself
    may be among them: it counts for as many concepts as it erases.

    Args:
        weights: The strength of each, 1 unless given.
        energy: Share of each layer's energy to keep; 1 is all of it. By default 0.95 of a fusion and 1 of a sum.
        way: "fuse" does on each one's concepts what that one does (`diffusion.fusing`); "sum" adds up.
        precision: What files hold: int8 (LoRA files fp16), fp16, bf16 or fp32.
        warn: Told what the files for others lack, and where adapters change different layers.

    Returns:
        What results.json holds: the adapters, weights, layers, ranks, the interference matrices, and for a fusion what
        the adapters do to each other before and after.

    Raises:
        ValueError: as `load_adapter`; adapters for different bases; the same one twice; nothing left.
    """
    if way not in WAYS:
        raise ValueError(f"unknown way {way!r}; known: {', '.join(WAYS)}")
    energy = ENERGY[way] if energy is None else energy
    check_energy(energy)
    check_precision(precision)
    adapters, fusion = read_all(pipe, paths, names, weights), {}
    if line := told_of_layers(adapters):
        warn(line)
    if way == "fuse":
        merged, fusion = fuse(pipe, adapters, energy, callback=callback)
    else:
        merged = added_up(adapters, energy)
    about = merged_about(adapters, energy, base_model, way)
    for part, updates in merged.items():
        put_adapter(parts(pipe)[part], SemuConfig(about=about), {k: u._asdict() for k, u in updates.items()})
        shrink(parts(pipe)[part], 1.0, precision)
    results = {
        **about,
        "layers": sum(map(len, merged.values())),
        "ranks": sum(len(u.R) for updates in merged.values() for u in updates.values()),
        "interference": matrices(adapters),
        **({"fusion": fusion} if fusion else {}),
        "versions": versions(),
    }
    write_merged(pipe, Path(output), about, results, warn, precision)
    return results


def merged_about(adapters: Sequence[Given], energy: float, base_model: str, way: str) -> dict:
    """The facts of a merged adapter: every concept of its parts, each once, what is drawn instead, and the parts."""
    abouts = [given.config.about for given in adapters]
    joined: dict[str, dict] = {}
    for about in abouts:
        for key in ("kinds", "anchors", "neighbours"):
            joined.setdefault(key, {}).update(about[key] if isinstance(about.get(key), dict) else {})
    made = list(dict.fromkeys(made_with(about) for about in abouts))
    papers = dict.fromkeys(str(about["paper"]) for about in abouts if about.get("paper"))
    other = {"method": series(made), "paper": ", ".join(papers)} if made != [made_with({})] else {}
    return {
        "base_model": base_model or next((about["base_model"] for about in abouts if about.get("base_model")), ""),
        "concept": list(dict.fromkeys(concept for given in adapters for concept in given.concepts)),
        "merged": [given.name for given in adapters],
        "way": way,
        "weights": [given.weight for given in adapters],
        "energy": energy,
        "parts": [part for given in adapters for part in parts_of(given)],
        **{key: own for key, own in joined.items() if own},
        **other,
    }


def write_merged(pipe, folder: Path, about: dict, results: dict, warn: Warn, precision: str) -> None:
    """The native adapter, its LoRA and kohya file where there are such, and results.json; older reports go first."""
    remove_reports(folder)
    save_adapters(pipe, folder, about, precision=precision)
    save_loras(pipe, folder, warn, precision)
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
