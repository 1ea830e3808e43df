"""What one record takes in memory, measured with the model itself: the peak of a forward pass, of a training step and
of the gradient's pass, as a constant and a part per record."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ..adapter.base_layers import matrix_shape
from ..adapter.config import SemuConfig
from ..adapter.gradients import gradients
from ..adapter.model import find_layers
from ..adapter.moments import Watch
from .families import Family, select

Predict = Callable[[int, bool], torch.Tensor]  # of so many records, from latents that ask for a gradient or not


@dataclass
class Line:
    """Bytes for a number of records: a part for each and one that does not depend on them."""

    each: float
    once: float = 0.0

    def __call__(self, records: int) -> float:
        return self.once + records * self.each

    def most(self, room: float) -> int:
        """How many records fit into so many bytes."""
        return int((room - self.once) // max(self.each, 1))


@dataclass
class Footprint:
    """Peaks in bytes beyond the model's own, with and without gradient checkpointing, and the sizes of the layers."""

    forward: Line
    step: dict[bool, Line]
    gradient: dict[bool, Line]
    shapes: list[tuple[int, int]]  # (m, n) of the adapted layers
    rows: list[int]  # that each of them makes of a record
    inputs: list[int] = field(default_factory=list)  # n of each input that several of them may share


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and their peak; on any device, meta too."""

    def __init__(self):
        super().__init__()
        self.now, self.peak = 0, 0
        self.known: set[int] = set()

    def gone(self, key: int, size: int) -> None:
        self.now -= size
        self.known.discard(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before = {id(t.untyped_storage()) for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)}
        for tensor in (t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)):
            storage = tensor.untyped_storage()
            key = id(storage)
            if key not in self.known and key not in before:
                self.known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.gone, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most that `run` takes beyond what is there before: as CUDA counts it, elsewhere by the tensors made."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        run()
    return live.peak


def line(run: Callable[[int], object], device: torch.device) -> Line:
    """The peak for one record and for two, as a line."""
    run(1)  # the first call of a model makes what stays: tables, casts, kernels' own memory
    one, two = (peak_bytes(lambda n=n: run(n), device) for n in (1, 2))
    each = max(two - one, one / 16, 1)
    return Line(each, max(one - each, 0))


@contextlib.contextmanager
def checkpointing(model: nn.Module, on: bool) -> Iterator[None]:
    """Gradient checkpointing for the time of the block; diffusers' models and transformers' differ in the name."""
    switches = (("enable_gradient_checkpointing", "disable_gradient_checkpointing"),
                ("gradient_checkpointing_enable", "gradient_checkpointing_disable"))  # fmt: skip
    enable, disable = next((pair for pair in switches if hasattr(model, pair[0])), (None, None))
    if on and enable:
        getattr(model, enable)()
    try:
        yield
    finally:
        if on and enable:
            getattr(model, disable)()


def measure(model: nn.Module, config: SemuConfig, predict: Predict, device: torch.device) -> Footprint:
    """Runs the model on one and two records in every way that an erasure does."""
    layers = find_layers(model, config)
    watch = Watch(layers)
    watch.add = lambda name, x: None  # only who shares with whom
    handles = [layer.register_forward_pre_hook(watch.hook(name)) for name, layer in layers.items()]
    rows = dict.fromkeys(layers, 0)

    def count(name: str) -> Callable:
        def hook(layer: nn.Module, args: tuple, out: torch.Tensor) -> None:
            rows[name] += out.numel() // matrix_shape(layer)[0]

        return hook

    handles += [layer.register_forward_hook(count(name)) for name, layer in layers.items()]
    with torch.no_grad():
        predict(1, False)
    for handle in handles:
        handle.remove()
    step, gradient = {}, {}
    for on in (False, True):
        with checkpointing(model, on):
            step[on] = line(lambda n: predict(n, True).float().square().mean().backward(), device)
            gradient[on] = line(lambda n: taken(model, config, predict, n), device)
    with torch.no_grad():
        forward = line(lambda n: predict(n, False), device)
    found = [matrix_shape(layer) for layer in layers.values()]
    inputs = [matrix_shape(layers[name])[1] for name, lead in watch.leads.items() if lead == name]
    return Footprint(forward, step, gradient, found, list(rows.values()), inputs)


def taken(model: nn.Module, config: SemuConfig, predict: Predict, records: int) -> None:
    """The gradient's pass, each layer's gradient freed as soon as it is there."""
    gradients(model, config, lambda: predict(records, True).float().square().mean().backward(), lambda name, G: None)


def probe(family: Family, prompt: str) -> Predict:
    """The family's prediction for so many records of a prompt."""
    conditions = family.encode([prompt])

    def predict(records: int, start: bool) -> torch.Tensor:
        x = torch.zeros(records, *family.latent_shape, device=family.device, dtype=family.dtype, requires_grad=start)
        t = family.times(torch.full((records,), 0.5)).to(family.device)
        return family.predict(x, t, select(conditions, torch.zeros(records, dtype=torch.long)))

    return predict
