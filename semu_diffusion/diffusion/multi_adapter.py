"""Several adapters on one pipeline, each at a weight of its own."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..adapter.config import SemuConfig
from ..adapter.layer import SemuLayer
from ..adapter.merging import crowding, updates_of
from ..adapter.switch import set_strengths
from ..adapter.weights import put_adapter
from .pipeline import parts, read_adapters

CROWDED = 3.0  # times one adapter's change: two cost 1.5 points of IRA on the embedded model, four 14


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
    """Puts several adapters on a pipeline, all active at their weights (1 unless given) beside those that are on.

    Everything is read and checked before the pipeline is touched. `set_weights` changes the weights later. A warning
    says where so many are on that what should stay is likely to suffer, as four of the embedded model's do.

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
    before = weights_of(pipe)
    for name, own in read.items():
        for part, (config, layers) in own.items():
            put_adapter(models[part], config, layers, name)
    set_weights(pipe, {**before, **dict(zip(paths, weights))})
    if line := crowded(pipe):
        warnings.warn(line, stacklevel=2)
    return {name: next(iter(own.values()))[0] for name, own in read.items()}


def crowded(pipe) -> str:
    """A sentence where so many adapters are on that they are likely to harm what must stay; else ""."""
    on = [name for name, weight in weights_of(pipe).items() if weight]
    if len(on) < 2:
        return ""
    own = [{f"{p}.{k}": u for p, m in parts(pipe).items() for k, u in updates_of(m, name).items()} for name in on]
    times = crowding(own)
    if times < CROWDED:
        return ""
    return (
        f"together these {len(on)} adapters change the model {times:.1f} times as much as one of them does, and what "
        f"should stay with it: fuse them into one: semu merge {' '.join(on)} --output fused"
    )


def weights_of(pipe) -> dict[str, float]:
    """The SEMU adapters that are on, with their weights."""
    layers = [m for model in parts(pipe).values() for m in model.modules() if isinstance(m, SemuLayer)]
    on = [layer for layer in layers if not layer.disable_adapters]
    return {name: layer.scaling[name] for layer in on for name in layer.active_adapters if layer.r.get(name)}


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


# ------------------------------------------------------------------------------------------- on top of


@contextlib.contextmanager
def erasing(pipe, erase: Mapping[str, float] | None) -> Iterator[None]:
    """Loaded adapters at these strengths for the time of the block, all others off; afterwards all are off.

    Raises:
        ValueError: the name of an adapter that was not loaded, or a strength below 0.
    """
    if any(not strength >= 0 for strength in (erase or {}).values()):
        raise ValueError("a strength must not be negative")
    set_weights(pipe, erase or {})
    try:
        yield
    finally:
        set_weights(pipe, {})
