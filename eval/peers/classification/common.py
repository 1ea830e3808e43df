"""What the peers share: the budget, the loop of gradient steps, shuffled batches, importances, and the bill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from semu_diffusion.adapter.gradients import eval_mode
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.classification import predict
from semu_diffusion.classification.data import Augment, batches, labels_of, shifted, take
from semu_diffusion.classification.losses import logits_of
from semu_diffusion.classification.training import device_of
from semu_diffusion.classification.unlearning import NAMED, augmented


@dataclass(frozen=True)
class Budget:
    """What every method of a run is given.

    Args:
        examples: How many examples may be back-propagated, those for masks, importances and bases included; at least
            one pass over the data is always made.
        batch_size: Examples per step.
        augment: For training batches; None leaves them as they are.
        whole_class: The forget set is all there is of its classes.
        unseen: Accuracy that Retrain is expected to have on examples it never saw, in [0, 1], from that of the original
            and the share of data that is forgotten. Numbers known from training; no data comes with them.
    """

    examples: int
    batch_size: int = 64
    augment: Augment | None = None
    whole_class: bool = False
    unseen: float | None = None

    def passes(self, examples: int, spent: int = 0) -> int:
        """Whole passes over this many examples, at least one, after `spent` of the budget are gone."""
        return max(1, (self.examples - spent) // examples)


@dataclass
class Task:
    """What a method is given: the model, to be changed in place, its data, the budget and the seed of its draws."""

    model: nn.Module
    forget: Dataset
    retain: Dataset | None
    budget: Budget
    seed: int

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def shuffled(self, data: Dataset, labels: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One pass in random order: augmented inputs (B, ...), labels (B,), index (B,); `labels` (N,) replace them."""
        augment = self.budget.augment
        for index in torch.randperm(len(data), generator=self.generator).split(self.budget.batch_size):
            x, y = take(data, index)
            yield (augment(x, self.generator) if augment else x), y if labels is None else labels[index], index

    def logits(self, x: Tensor) -> Tensor:
        """The model's (B, C), on the CPU, where labels are."""
        return logits(self.model, x)

    def steps(self, data: Dataset) -> int:
        """Batches of one pass."""
        return math.ceil(len(data) / self.budget.batch_size)

    def descend_on(self, data: Dataset, loss: Callable[[Tensor, Tensor], Tensor], lr: float, **how) -> nn.Module:
        """`descend` over as many whole passes over a data set as the budget has; the loss of (x, y)."""
        losses = lambda epoch: (loss(x, y) for x, y, _ in self.shuffled(data))  # noqa: E731
        return descend(self.model, losses, self.budget.passes(len(data)), self.steps(data), lr, **how)


@dataclass(frozen=True)
class Peer:
    """A method with its paper, the data that it needs, and its candidates for the hyper-parameter search.

    `grid` is searched where retain data may be used, `alone` where there is only the forget set; an empty `alone`
    means that the method cannot do without retain data.
    """

    name: str
    run: Callable[..., nn.Module]
    paper: str
    needs: str
    grid: tuple[dict, ...]
    alone: tuple[dict, ...] = ()

    def __call__(
        self, model: nn.Module, forget: Dataset, retain: Dataset | None, budget: Budget, seed: int = 0, **hyper
    ) -> nn.Module:
        """Changes the model in place and returns it, in eval mode.

        Raises:
            ValueError: no retain data, and the method cannot work without.
            FloatingPointError: the loss or the logits became NaN or infinite.
        """
        if retain is None and not self.alone:
            raise ValueError(f"{self.name} needs {self.needs} ({self.paper}): the forget set alone is not enough")
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # dropout
            try:
                return self.run(Task(model, forget, retain, budget, seed), **hyper).eval()
            except ValueError as error:
                if "not finite" in str(error):  # what the library says of logits that are NaN
                    raise FloatingPointError(str(error)) from None
                raise


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """(B, C), on the CPU, where labels are."""
    output = model(x.to(device_of(model)))
    return getattr(output, "logits", output).cpu()


def set_mode(model: nn.Module, batchnorm: str) -> None:
    """Training mode; with batchnorm "eval" its statistics, and everything else that depends on the mode, stay."""
    model.train(batchnorm == "train")


def descend(
    model: nn.Module,
    losses: Callable[[int], Iterator[Tensor]],
    epochs: int,
    steps: int,
    lr: float,
    weight_decay: float = 5e-4,
    batchnorm: str = "train",
    edit: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
    until: Callable[[], bool] | None = None,
) -> nn.Module:
    """SGD with momentum 0.9 on the losses of each epoch; the learning rate falls to 0 along a cosine.

    Args:
        losses: epoch -> the losses of its batches, each computed when it is asked for.
        steps: Batches per epoch.
        edit, after: Called between the backward pass and the step, and after the step.
        until: Asked after each epoch whether to stop.

    Raises:
        FloatingPointError: a loss that is not finite.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * steps))
    for epoch in range(epochs):
        set_mode(model, batchnorm)
        for loss in losses(epoch):
            if not loss.isfinite():
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}; lower lr")
            optimizer.zero_grad()
            loss.backward()
            if edit:
                edit()
            optimizer.step()
            schedule.step()
            if after:
                after()
        if until and until():
            break
    return model.eval()


def forgotten_enough(task: Task) -> Callable[[], bool] | None:
    """The stop rule of SEMU, offered to every method that only sees the forget set; None where nothing is known.

    A part of the data: its accuracy has fallen to that expected of unseen data. Whole classes: at most 1 % of the
    forget set and of its augmented copies are still named.
    """
    if task.budget.whole_class:
        copies = augmented(task.forget, task.budget.augment or shifted, task.seed)
        return lambda: all(hits(task.model, part) <= NAMED for part in (task.forget, copies))
    if task.budget.unseen is None:
        return None
    return lambda: hits(task.model, task.forget) <= task.budget.unseen


def hits(model: nn.Module, data: Dataset) -> float:
    """Share of a data set that the model names."""
    return (predict(model, data).argmax(1) == labels_of(data)).double().mean().item()


def gradient(model: nn.Module, data: Dataset, batch_size: int) -> list[Tensor]:
    """Gradient of the mean cross-entropy over a data set for each parameter, in eval mode."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    for grads, count in batch_gradients(model, data, batch_size):
        for sum_, g in zip(total, grads):
            sum_ += g * (count / len(data))
    return total


def fisher(model: nn.Module, data: Dataset, batch_size: int = 16) -> list[Tensor]:
    """Diagonal Fisher information for each parameter: mean squared gradient of small batches, in eval mode."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    for grads, count in batch_gradients(model, data, batch_size):
        for sum_, g in zip(total, grads):
            sum_ += g.square() * (count / len(data))
    return total


def batch_gradients(model: nn.Module, data: Dataset, batch_size: int) -> Iterator[tuple[list[Tensor], int]]:
    """Gradients of the cross-entropy of each batch, and its number of examples."""
    with eval_mode(model):
        for x, y in batches(data, batch_size):
            loss = F.cross_entropy(logits_of(model(x.to(device_of(model)))), y.to(device_of(model)))
            yield torch.autograd.grad(loss, list(model.parameters())), len(y)


def bill(model: nn.Module, before: dict[str, Tensor]) -> dict[str, int]:
    """{"trained": numbers that training moved, "bytes": of what must be stored to repeat the change}.

    For SEMU these are the entries of R and the bytes of U, R and V; for all others the parameters, and the bytes of
    all values (statistics of BatchNorm too), that differ from the state dict `before`.
    """
    layers = semu_layers(model)
    if layers:
        parts = [(m.semu_R["default"], m.semu_U["default"], m.semu_V["default"]) for m in layers.values()]
        return {
            "trained": sum(R.numel() for R, _, _ in parts),
            "bytes": sum(t.numel() * t.element_size() for part in parts for t in part),
        }
    names = {name for name, _ in model.named_parameters()}
    moved = {k: int((v != before[k]).sum()) for k, v in model.state_dict().items()}
    return {
        "trained": sum(n for k, n in moved.items() if k in names),
        "bytes": sum(n * before[k].element_size() for k, n in moved.items()),
    }
