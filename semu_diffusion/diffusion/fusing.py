"""Adapters of one base fused into one that does on each one's concepts what that one does, and little elsewhere.

The inputs come from records that the base model draws anew from the prompts that each adapter names: moments stored
beside the adapters would take more bytes than the adapters themselves. Every fourth record is kept apart and measured
on: what all the adapters at once do there, and what their fusion does.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch

from ..adapter.base_layers import full_precision
from ..adapter.config import SemuConfig
from ..adapter.fusion import Fusion
from ..adapter.updates import Update
from ..adapter.weights import put_adapter
from ..callbacks import Callback
from .families import family_of
from .multi_adapter import set_weights
from .pipeline import parts, remove_adapter
from .plain import plain
from .scene import Given, Scene

LAMBDA = 0.3  # weight of what must stay, against that of all concepts together
# What PEFT says of several adapters, which are wanted here and gone afterwards.
SEVERAL = "Already found a `peft_config`|Adapter .* was active which is now deleted"
MOST = 2.0  # times an adapter's strength, to make up for what least squares leaves undone


def fuse(
    pipe, adapters: Sequence[Given], energy: float, seed: int = 0, callback: Callback | None = None
) -> tuple[dict[str, dict[str, Update]], dict]:
    """The adapters' fusion by part and layer (`adapter.fusion`), and how far all at once and the fusion interfere.

    Least squares falls short of each adapter, as concepts' inputs are alike: then all is done again with each
    adapter's strength raised by what was missing on the records kept apart. The pipeline is left as it was.

    Args:
        energy: Share of what each layer does to its outputs that is kept.

    Returns:
        Updates; and the figures of `Trial.measure` for "stack" and "fused", with "strengths".

    Raises:
        ValueError: an adapter that does not say what it erases, a family that cannot be erased from.
    """
    callback = callback or Callback()
    with plain(pipe, learning=True, hooks=False), put_on(pipe, [given.updates for given in adapters]) as names:
        family = family_of(pipe)
        scene = Scene(pipe, family, adapters, seed, callback)
        callback.stage("moments", len(adapters) + 1)
        fusions = gathered(scene, adapters, names, callback)
        callback.stage("interference")
        trial = Trial(scene, adapters, names)
        report = {"stack": trial.measure(dict(zip(names, trial.weights)))}
        strengths = list(trial.weights)
        for again in (True, False):
            with full_precision(family.device):
                fused = {part: fusion.fused(energy, strengths) for part, fusion in fusions.items()}
            with put_on(pipe, [fused], "fused") as (name,):
                report["fused"] = trial.measure({name: 1.0})
            if again:
                way = [report["fused"]["way"][given.name] for given in adapters]
                strengths = [s * min(max(1 / max(w, 1e-3), 1.0), MOST) for s, w in zip(strengths, way)]
    return fused, {**report, "strengths": dict(zip((given.name for given in adapters), strengths))}


@contextlib.contextmanager
def put_on(pipe, adapters: Sequence[Mapping[str, Mapping[str, Update]]], prefix: str = "fusing") -> Iterator[list[str]]:
    """Adapters on the pipeline, all off, under names that are theirs for the time of the block."""
    names, models = [f"{prefix}-{k}" for k in range(len(adapters))], parts(pipe)
    try:
        with quiet():
            for name, by_part in zip(names, adapters):
                for part, updates in by_part.items():
                    put_adapter(models[part], SemuConfig(), {k: u._asdict() for k, u in updates.items()}, name)
        set_weights(pipe, {})
        yield names
    finally:
        with quiet():
            for name in names:
                remove_adapter(pipe, name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what PEFT says of several adapters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SEVERAL, UserWarning)
        yield


def gathered(scene: Scene, adapters: Sequence[Given], names: Sequence[str], callback: Callback) -> dict[str, Fusion]:
    """Part -> its fusion with all moments: each adapter's with that adapter on, those of what must stay with none."""
    layers: dict[str, dict[str, None]] = {}
    for given in adapters:
        for part, updates in given.updates.items():
            layers.setdefault(part, {}).update(dict.fromkeys(updates))
    fusions, concepts = {part: Fusion() for part in layers}, sum(len(given.concepts) for given in adapters)
    for given, name, (learnt, _) in zip(adapters, names, scene.own):
        set_weights(scene.pipe, {name: given.weight})
        for part, own in layers.items():
            fusions[part].add(given.updates.get(part, {}), scene.moments(part, own, learnt), len(given.concepts))
        callback.advance()
    set_weights(scene.pipe, {})
    for part, own in layers.items():
        fusions[part].keep(scene.moments(part, own, scene.kept[0]), LAMBDA * concepts)
    callback.advance()
    return fusions


class Trial:
    """What adapters do on the records kept apart, against what each of them does alone and the base model.

    `way` is the share of each one's change that is made, <p - base, alone - base> / ||alone - base||^2; `error` is
    ||p - alone||^2 / ||alone - base||^2; `kept` is ||p - base||^2 on what must stay, by the mean of ||alone - base||^2
    on the adapters' own records. p are the model's predictions.
    """

    def __init__(self, scene: Scene, adapters: Sequence[Given], names: Sequence[str]):
        self.scene, self.labels, self.weights = scene, [g.name for g in adapters], [g.weight for g in adapters]
        self.records = [held for _, held in scene.own]
        self.base, self.base_kept = self.answers({}), self.kept({})
        self.alone = [self.answers({n: w}, k)[0] for k, (n, w) in enumerate(zip(names, self.weights))]
        self.lengths = [(a - b).square().mean().item() for a, b in zip(self.alone, self.base)]

    def answers(self, on: Mapping[str, float], only: int | None = None) -> list[torch.Tensor]:
        """Predictions on each adapter's records, or on those of one, with these adapters on at these strengths."""
        set_weights(self.scene.pipe, on)
        return [self.scene.answers(held) for k, held in enumerate(self.records) if only in (None, k)]

    def kept(self, on: Mapping[str, float]) -> torch.Tensor:
        """The same on what must stay."""
        set_weights(self.scene.pipe, on)
        return self.scene.answers(self.scene.kept[1])

    def measure(self, on: Mapping[str, float]) -> dict:
        """`way` and `error` by adapter, and `kept`."""
        found, scale = self.answers(on), sum(self.lengths) / len(self.lengths)
        figures = {"way": {}, "error": {}}
        for label, p, alone, base, length in zip(self.labels, found, self.alone, self.base, self.lengths):
            figures["way"][label] = ((p - base) * (alone - base)).mean().item() / max(length, 1e-30)
            figures["error"][label] = (p - alone).square().mean().item() / max(length, 1e-30)
        kept = (self.kept(on) - self.base_kept).square().mean().item() / max(scale, 1e-30)
        set_weights(self.scene.pipe, {})
        return {**figures, "kept": kept}
