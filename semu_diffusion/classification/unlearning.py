"""Makes a classifier forget: forgetting gradient -> bases -> R on random labels, until the forget set looks unseen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from ..adapter import SemuConfig, SemuLayer
from ..adapter.gradients import eval_mode
from ..adapter.subspace import Basis, find_bases, install_bases, param_groups
from ..adapter.weights import WEIGHTS, inject, save_adapter, semu_layers, write_atomic
from ..metrics.membership import true_confidence
from ..versions import versions
from .config import UnlearnConfig
from .data import Augment, Examples, as_dataset, batches, labels_of, overlap, shifted, take
from .losses import check_labels, likely_labels, logits_of, random_labels, unlearning_loss
from .training import device_of, predict

PACKAGES = ("semu-diffusion", "torch", "peft", "transformers", "scikit-learn", "safetensors")  # named in results.json
KEPT = 256  # inputs that the remain geometry looks at
MEASURED = 2048  # most examples over which the stop rule is measured
NAMED = 0.01  # share of a wholly forgotten class, and of its augmented copies, that may still be named
LEARNING = 0.3  # errors fall as N^-0.3 with N training examples (image classifiers; Hestness et al., arXiv 1712.00409)
HALVINGS = 6  # of the last epoch's way, to end where the stop rule is met


@dataclass
class Unlearning:
    """What `unlearn` did: the model carries the adapter, `facts` say how it went."""

    model: nn.Module
    config: UnlearnConfig
    history: list[dict] = field(default_factory=list)
    facts: dict = field(default_factory=dict)

    def save(self, folder: str | Path, base_model: str = "", more: dict | None = None) -> Path:
        """Writes the adapter and results.json, with `more` in it; returns the folder."""
        folder, options = Path(folder), self.config.to_dict()
        save_adapter(self.model, folder, about={"base_model": base_model, **options})
        self.facts["adapter_bytes"] = (folder / WEIGHTS).stat().st_size
        results = {"base_model": base_model, "options": options, "training": self.facts, "history": self.history}
        results |= {"versions": versions(PACKAGES), **(more or {})}
        write_atomic(folder / "results.json", json.dumps(results, indent=1))
        return folder


def unlearn(
    model: nn.Module,
    forget: Dataset | tuple[Tensor, Tensor],
    retain: Dataset | tuple[Tensor, Tensor] | None = None,
    held_out: Dataset | tuple[Tensor, Tensor] | None = None,
    augment: Augment = shifted,
    report: Callable[[dict], None] | None = None,
    **options: object,
) -> Unlearning:
    """Makes a classifier forget examples and leaves the adapter on it, frozen, in eval mode.

        unlearn(model, (x, y))                                  # the forget set alone
        unlearn(model, (x, y), held_out=(u, v), gamma=0.95)     # with unseen data for the stop rule
        load_adapter(fresh_copy, unlearn(model, (x, y), whole_class=True).save("no-threes"))

    The whole net is in eval mode all along: BatchNorm statistics stay, there is no dropout. Without retain data
    nothing else of the training data is looked at: the stop rule compares the forget set with the held-out set, or,
    without one, with its own augmented copies. Where the model was trained on such copies they are no unseen data and
    the rule would stop too soon: give `target`, a number known from training, instead. With `share` the rule expects
    of unseen data what a model trained without the forget set would make of it, from the learning curve of image
    classifiers. A whole class with retain data takes all epochs, the learning rate falling along a cosine: it cannot be
    forgotten too much, and the rest recovers. `facts["stop"]` and `facts["geometry_inputs"]` say what was used.

    Args:
        model: Returns logits (B, C) or an output with `.logits`; has Linear or Conv2d layers.
        forget: Inputs (N, ...) and labels (N,), or a dataset of such pairs.
        retain: What must stay and was trained on; its loss has weight `alpha`.
        held_out: Like the training data but never seen; of a class that is forgotten whole it is left out.
        augment: (inputs, generator) -> inputs, for the copies; by default small shifts.
        **options: Fields of `UnlearnConfig`.

    Raises:
        ValueError: bad options, labels out of range, logits with NaN, no layer to adapt, a forget set that shares
            examples with the retain or held-out set, a model that carries an adapter already.
        FloatingPointError: the loss became NaN.
    """
    started = time.time()
    config = UnlearnConfig(**options)
    unlearner = Unlearner(model, config, *(d and as_dataset(d) for d in (forget, retain, held_out)), augment)
    bases = unlearner.adapt()
    stop = unlearner.train(report or (lambda row: None))
    model.requires_grad_(False)
    model.eval()
    facts = {"seconds": round(time.time() - started, 2), "stop": stop, "geometry_inputs": unlearner.kept_about}
    return Unlearning(model, config, unlearner.history, {**facts, **sizes(model, bases)})


def sizes(model: nn.Module, bases: dict[str, Basis]) -> dict:
    """Layers, ranks, energy, how many numbers were trained, and the bytes of U, R and V."""
    layers = semu_layers(model)
    own = sum(p.numel() for name, p in model.named_parameters() if "semu_" not in name)
    parts = [[getattr(m, f"semu_{part}")["default"] for part in "URV"] for m in layers.values()]
    trained = sum(R.numel() for _, R, _ in parts)
    return {
        "layers": len(layers),
        "trained": trained,
        "trained_percent": 100 * trained / own,
        "bytes": sum(tensor.numel() * tensor.element_size() for row in parts for tensor in row),
        "ranks": {name: layer.r["default"] for name, layer in layers.items()},
        "energy": {name: basis.energy for name, basis in bases.items()},
    }


class Unlearner:
    """Owns the loop: checked data in, trained R out."""

    def __init__(
        self,
        model: nn.Module,
        config: UnlearnConfig,
        forget: Dataset,
        retain: Dataset | None = None,
        held_out: Dataset | None = None,
        augment: Augment = shifted,
    ):
        self.model, self.config, self.augment = model, config, augment
        self.forget, self.labels, self.device = forget, check_inputs(model, forget, retain, held_out), device_of(model)
        self.retain = retain if config.alpha else None
        self.forgotten = sorted(set(self.labels.tolist())) if config.whole_class else []
        held_out = held_out and outside(held_out, self.forgotten)
        self.generator = torch.Generator().manual_seed(config.seed)
        order = torch.randperm(len(forget), generator=self.generator)
        self.measured = Subset(forget, order[:MEASURED].tolist())
        copies = augmented(self.measured, augment, config.seed)
        self.num_classes = predict(model, Subset(forget, [0])).shape[1]
        self.guesses = predict(model, forget) if config.labels == "likely" else None  # (N, C)
        choices = ((retain, "retain data"), (held_out, "held-out data"), (copies, "augmented forget data"))
        self.kept, self.kept_about = next((d, about) for d, about in choices if d)
        if config.whole_class:  # nobody who never saw a class names it; the copies stand for its unseen examples
            self.measured, self.unseen, self.unseen_about = ConcatDataset([self.measured, copies]), None, "whole class"
        elif config.target is not None:
            self.unseen, self.unseen_about = None, "the given target"
        else:
            self.unseen, self.unseen_about = next((d, about) for d, about in choices[1:] if d)
        # A class cannot be forgotten too much: where retain data are at hand the rest recovers in all epochs.
        self.to_the_end = config.whole_class and self.retain is not None
        self.history: list[dict] = []

    # ------------------------------------------------------------------------------------------- basis

    def adapt(self) -> dict[str, Basis]:
        """Finds the bases and injects the adapter at R = 0."""
        c = self.config
        semu = SemuConfig(
            target_modules=c.target_modules,
            gamma=c.gamma,
            max_rank=c.max_rank,
            geometry=c.geometry,
            damping=c.damping,
        )
        remain = c.geometry == "remain"
        self.kept_about = self.kept_about if remain else None
        bases = find_bases(self.model, semu, self.backward, self.forward_kept if remain else None)
        semu.ranks = {name: basis.rank for name, basis in bases.items()}
        inject(self.model, semu)
        install_bases(self.model, bases)
        return bases

    def draw(self) -> Tensor:
        """Random labels for the whole forget set, (N,)."""
        if self.guesses is not None:
            return likely_labels(self.guesses, self.labels, self.generator, self.forgotten)
        return random_labels(self.labels, self.num_classes, self.generator, self.forgotten)

    def backward(self) -> None:
        """Back-propagates the forgetting loss over the forget set."""
        labels = self.draw() if self.config.gradient == "random" else self.labels
        for index in torch.arange(len(self.forget)).split(self.config.batch_size):
            loss = F.cross_entropy(self.logits(take(self.forget, index)[0]), labels[index].to(self.device))
            (len(index) / len(self.forget) * loss).backward()

    def forward_kept(self) -> None:
        """Runs the model on inputs like those that must stay."""
        order = torch.randperm(len(self.kept), generator=torch.Generator().manual_seed(self.config.seed))
        for x, _ in batches(self.kept, 16, order[:KEPT]):
            self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        return logits_of(self.model(x.to(self.device)))

    # ---------------------------------------------------------------------------------------- training

    def train(self, report: Callable[[dict], None]) -> dict:
        """Runs to the stop rule or `config.epochs`; returns how it stopped."""
        rule = self.config.stop
        target = None if rule == "never" else self.target()
        optimizer = torch.optim.Adam(param_groups(self.model, self.config.lr), betas=(0.9, 0.99))
        steps = self.config.epochs * -(-len(self.forget) // self.config.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if self.to_the_end else None
        weights = [group["params"][0] for group in optimizer.param_groups]
        with eval_mode(self.model):
            row, met = self.epochs(optimizer, weights, target, report)
        stop = {"rule": rule, "compared_with": self.unseen_about, "target": target, "reached": met}
        return {**stop, "value": row.get(rule), "epochs": row["epoch"]}

    def epochs(
        self, optimizer: torch.optim.Optimizer, weights: list[Tensor], target: float | None, report: Callable
    ) -> tuple[dict, bool]:
        """As many epochs as the rule asks for; the row of the one that is kept, and whether it met the rule."""
        good = None
        for epoch in range(self.config.epochs):
            before = copies(weights)
            row = {"epoch": epoch + 1, **self.epoch(optimizer), **self.measure(self.measured)}
            met = target is not None and self.met(row, target)
            if met and not self.config.whole_class:
                row |= {"part": self.land(weights, before, target), **self.measure(self.measured)}
            self.history.append(row)
            report(row)
            if met and not self.to_the_end:
                return row, True
            good = (row, copies(weights)) if met else good
        if good is None:
            return row, False
        put(weights, good[1])  # where the class came back with the rest, the last epoch that had forgotten it
        return good[0], True

    def target(self) -> float:
        """Where to stop: the untouched model's value on unseen data; for a whole class, hardly one named."""
        if self.config.whole_class:
            return self.loss_of_none() if self.config.stop == "loss" else NAMED
        if self.config.target is not None:
            return self.config.target
        # The adapter is injected with R = 0, so this is the base model.
        return less_trained(self.config.stop, self.measure(self.unseen)[self.config.stop], self.config.share or 0.0)

    def loss_of_none(self) -> float:
        """The loss of a uniform guess."""
        return torch.tensor(float(self.num_classes)).log().item()

    def epoch(self, optimizer: torch.optim.Optimizer) -> dict:
        """One pass over the forget set with fresh random labels, beside as much retain data."""
        labels, parts = self.draw(), {}
        for index in torch.randperm(len(self.forget), generator=self.generator).split(self.config.batch_size):
            x, y = take(self.forget, index)[0], labels[index]
            if self.retain is not None:
                kept = take(self.retain, torch.randint(len(self.retain), (len(index),), generator=self.generator))
                x, y = torch.cat([x, kept[0]]), torch.cat([y, kept[1]])
            loss, row = unlearning_loss(self.logits(x), y.to(self.device), len(index), self.config.alpha)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {len(self.history) + 1}; lower --lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if self.schedule:
                self.schedule.step()
            for key, value in {"training_loss": loss.item(), **row}.items():
                parts[key] = parts.get(key, 0.0) + value * len(index) / len(self.forget)
        return parts

    def measure(self, data: Dataset) -> dict[str, float]:
        """Accuracy, mean confidence in the true label, both in [0, 1], and mean loss on a data set."""
        if len(data) > 2 * MEASURED:
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.config.seed))
            data = Subset(data, order[:MEASURED].tolist())
        logits, labels = predict(self.model, data), labels_of(data)
        return {
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
            "confidence": true_confidence(logits, labels).mean().item(),
            "loss": F.cross_entropy(logits, labels).item(),
        }

    def met(self, row: dict[str, float], target: float) -> bool:
        """Whether the forget set is as unknown to the model as the target asks."""
        if self.config.whole_class:
            return row["accuracy"] <= NAMED and (self.config.stop != "loss" or row["loss"] >= target)
        return row["loss"] >= target if self.config.stop == "loss" else row[self.config.stop] <= target

    def land(self, weights: list[Tensor], before: list[Tensor], target: float) -> float:
        """Goes back along the last epoch's way to where the target is just met; returns the part that was kept."""
        after, low, high = copies(weights), 0.0, 1.0

        def go(part: float) -> None:
            put(weights, [a + part * (b - a) for a, b in zip(before, after)])

        for _ in range(HALVINGS):
            middle = (low + high) / 2
            go(middle)
            low, high = (low, middle) if self.met(self.measure(self.measured), target) else (middle, high)
        go(high)
        return high


def copies(weights: list[Tensor]) -> list[Tensor]:
    """Their values now."""
    return [R.detach().clone() for R in weights]


@torch.no_grad()
def put(weights: list[Tensor], values: list[Tensor]) -> None:
    """Gives the weights these values."""
    for R, value in zip(weights, values):
        R.copy_(value)


def less_trained(rule: str, value: float, share: float) -> float:
    """What accuracy, confidence or loss on unseen data becomes in a model trained without this share of the data."""
    growth = (1 - share) ** -LEARNING
    return value * growth if rule == "loss" else max(0.0, 1 - (1 - value) * growth)


def check_inputs(model: nn.Module, forget: Dataset, retain: Dataset | None, held_out: Dataset | None) -> Tensor:
    """The labels of the forget set. ValueError where the data do not fit the model or each other."""
    if any(isinstance(m, SemuLayer) for m in model.modules()):
        raise ValueError(
            "the model carries a SEMU adapter already; merge it first (merge_adapter), or load a fresh one"
        )
    for data, name in ((forget, "forget set"), (retain, "retain set"), (held_out, "held-out set")):
        if data is None:
            continue
        if not len(data):
            raise ValueError(f"the {name} is empty")
        check_labels(labels_of(data), predict(model, Subset(data, [0])).shape[1], name)
        shared = 0 if name == "forget set" else overlap(forget, data)
        if shared:
            raise ValueError(f"the {name} holds {shared} examples of the forget set; take them out of one of the two")
    return labels_of(forget)


def outside(data: Dataset, classes: list[int]) -> Dataset | None:
    """The examples of other classes; None where there is none."""
    index = torch.nonzero(~torch.isin(labels_of(data), torch.tensor(classes, dtype=torch.long))).flatten().tolist()
    return (Subset(data, index) if classes else data) if index else None


def augmented(data: Dataset, augment: Augment, seed: int) -> Examples:
    """An augmented copy of each example, in memory."""
    generator = torch.Generator().manual_seed(seed)
    parts = [(augment(x, generator), y) for x, y in batches(data, 256)]
    return Examples(*(torch.cat(part) for part in zip(*parts)))
