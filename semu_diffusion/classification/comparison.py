"""Unlearning beside Retrain: trains the original, Retrain and shadow models, forgets, and measures all three."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from ..adapter.claims import filled
from ..metrics.membership import auc, rmia, true_confidence
from ..metrics.unlearning import RetrainKL, accuracy, average_gap, unlearning_report
from .card import write_card
from .config import UnlearnConfig
from .data import Data, labels_of
from .models import save_classifier
from .splits import Split
from .training import fit, predict
from .unlearning import Unlearning, unlearn


@dataclass
class Training:
    """How a classifier is trained: the original, Retrain and the shadow models alike."""

    epochs: int = 12
    lr: float = 0.05
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self):
        if self.epochs < 0 or self.batch_size < 1 or not self.lr > 0:
            raise ValueError("training needs at least 0 epochs, a batch size of at least 1 and a rate above 0")


@dataclass
class Comparison:
    """The unlearned model and a row of measures for each of "original", "retrain" and "semu"."""

    unlearning: Unlearning
    rows: dict[str, dict[str, float]]
    split: Split
    base: nn.Module

    def save(self, folder: str | Path, base_model: str, data: str) -> Path:
        """Writes adapter, results.json, split.json, README.md and, into base/, the model that the adapter is for.

        All of it is there at the end, or what was there before.
        """
        more = {"table": self.rows, "data": data, "split": {"file": "split.json", "about": self.split.about}}
        forgotten = len(self.split.forget)
        with filled(Path(folder)) as part:
            self.unlearning.save(part, base_model, more)
            self.split.save(part / "split.json")
            write_card(part, base_model, data, self.split.about, forgotten, self.rows, self.unlearning.facts)
            save_classifier(self.base, part / "base")
        return Path(folder)


def ignore(*_) -> None:
    """Listens to nothing."""


def compare(
    model: nn.Module,
    data: Data,
    split: Split,
    training: Training | None = None,
    config: UnlearnConfig | None = None,
    pairs: int = 1,
    stage: Callable[[str, int], None] = ignore,
    row: Callable[[dict], None] = ignore,
) -> Comparison:
    """Trains `model` (0 epochs: takes it as it is, without Retrain and shadow models), forgets and measures.

    The remaining data goes to `unlearn` only where config.alpha is above 0; the held-out data always does.

    Args:
        model: Fresh or pretrained; it ends up with the adapter. Retrain and shadow models start from copies of it.
        pairs: Pairs of shadow models for RMIA, each on one half of training and test data; 0 for no RMIA.
        stage, row: Told of each stage (name, epochs) and each epoch.
    """
    training, config = training or Training(), config or UnlearnConfig(alpha=0.0)
    share = len(split.forget) / len(data.train)
    config = UnlearnConfig(**{**config.to_dict(), "whole_class": bool(split.classes), "share": share})
    parts, fresh = Parts(data, split), copy.deepcopy(model)

    def trained(name: str, examples: Dataset) -> tuple[nn.Module, float]:
        stage(name, training.epochs)
        started, result = time.time(), copy.deepcopy(fresh)
        fit(result, examples, **vars(training), augment=data.augment, report=row)
        return result, time.time() - started

    seconds, retrain, shadows = {}, None, []
    if training.epochs:
        base, seconds["original"] = trained("original", data.train)
        retrain, seconds["retrain"] = trained("retrain", parts.retain)
        halves = parts.halves(pairs, training.seed)
        shadows = [parts.judged(trained(f"shadow {k + 1}", half)[0]) for k, half in enumerate(halves)]
        model.load_state_dict(base.state_dict())
    else:
        base = fresh
    stage("unlearning", config.epochs)
    kept = parts.retain if config.alpha else None
    result = unlearn(model, parts.forget, kept, data.held_out, report=row, **config.to_dict())
    seconds["semu"] = result.facts["seconds"]
    stage("evaluation", 0)
    rows = {"original": parts.measures(base, shadows), "semu": parts.measures(model, shadows)}
    if retrain is not None:
        rows["retrain"] = parts.measures(retrain, shadows)
        for name, measured in rows.items():
            measured["gap"] = average_gap(measured, rows["retrain"])
            measured["KL"] = parts.divergence({"original": base, "semu": model, "retrain": retrain}[name], retrain)
    own = sum(p.numel() for p in base.parameters())
    size = sum(v.numel() * v.element_size() for v in base.state_dict().values())
    for name, measured in rows.items():
        measured["seconds"] = seconds.get(name)
        measured["trained"], measured["bytes"] = own, size
    rows["semu"] |= {"trained": result.facts["trained"], "bytes": result.facts["bytes"]}
    return Comparison(result, rows, split, base)


class Parts:
    """The sets of a comparison; the forgotten classes are no part of the test set."""

    def __init__(self, data: Data, split: Split):
        gone = torch.isin(data.test.y, torch.tensor(split.classes, dtype=torch.long))
        self.data = data
        self.forget, self.retain = Subset(data.train, split.forget), Subset(data.train, split.retain)
        self.test = Subset(data.test, torch.nonzero(~gone).flatten().tolist())
        self.gone = Subset(data.test, torch.nonzero(gone).flatten().tolist())

    def measures(self, model: nn.Module, shadows: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """UA, RA, TA, MIA; for whole classes UA on their test examples; RMIA with shadow models."""
        outputs = {
            k: (predict(model, d), labels_of(d))
            for k, d in (("forget", self.forget), ("retain", self.retain), ("test", self.test))
        }
        found = unlearning_report(**outputs)
        if len(self.gone):
            found["UA_test"] = 100 - accuracy(predict(model, self.gone), labels_of(self.gone))
        if shadows:
            found["RMIA"] = self.attack(outputs, shadows)
        return found

    def attack(self, outputs: dict, shadows: list[tuple[Tensor, Tensor]]) -> float:
        """AUC in % of RMIA between forget and test set: 50 where they cannot be told apart."""
        x, z = (true_confidence(*outputs[name]) for name in ("forget", "test"))
        x_shadow, z_shadow = (torch.stack(parts) for parts in zip(*shadows))
        return auc(rmia(x, x_shadow, z, z_shadow), rmia(z, z_shadow, z, z_shadow))

    def judged(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """A shadow model's confidence in the true labels of the forget and the test set."""
        return tuple(true_confidence(predict(model, d), labels_of(d)) for d in (self.forget, self.test))

    def halves(self, pairs: int, seed: int) -> list[Dataset]:
        """Complementary random halves of training and test data together: each example is in one of a pair."""
        whole, found = ConcatDataset([self.data.train, self.data.test]), []
        for k in range(pairs):
            order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed * 1_000_003 + k)).tolist()
            found += [Subset(whole, order[: len(order) // 2]), Subset(whole, order[len(order) // 2 :])]
        return found

    def divergence(self, model: nn.Module, retrain: nn.Module) -> float:
        """KL(Retrain || model) on the forget set, in nats."""
        metric = RetrainKL()
        metric.update(predict(model, self.forget), predict(retrain, self.forget))
        return metric.compute().item()
