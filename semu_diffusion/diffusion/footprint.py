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

from ..adapter.base_layers import is_linear, matrix_shape
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
class Given:
    """An input that second moments are summed of, however many layers share it: n numbers in each of `rows` rows of a
    record, unfolded where it is a convolution's; and the bytes that are alive when the layer is called."""

    n: int
    rows: int
    unfolded: bool = False
    alive: Line = field(default_factory=lambda: Line(0.0))


@dataclass
class Footprint:
    """Peaks in bytes beyond the model's own, with and without gradient checkpointing, and the sizes of the layers."""

    forward: Line
    step: dict[bool, Line]
    gradient: dict[bool, Line]
    shapes: list[tuple[int, int]]  # (m, n) of the adapted layers
    rows: list[int]  # that each of them makes of a record
    inputs: list[Given] = field(default_factory=list)
    width: int = 4  # bytes of a number in the activations
    prompt: int = 0  # bytes of what a prompt becomes for the model
    device: torch.device = torch.device("meta")


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


@contextlib.contextmanager
def counted(device: torch.device) -> Iterator[tuple[Callable[[], int], Callable[[], int]]]:
    """Bytes taken now and at most, beyond what is there before: as CUDA counts it, elsewhere by the tensors made."""
    if device.type != "cuda":
        with LiveBytes() as live:
            yield lambda: live.now, lambda: live.peak
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield (lambda: torch.cuda.memory_allocated(device) - before,
           lambda: torch.cuda.max_memory_allocated(device) - before)  # fmt: skip


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most that `run` takes beyond what is there before."""
    with counted(device) as (_, peak):
        run()
        return peak()


def through(one: float, two: float) -> Line:
    """The line through the bytes of one record and of two."""
    each = max(two - one, one / 16, 1)
    return Line(each, max(one - each, 0))


def line(run: Callable[[int], object], device: torch.device) -> Line:
    """The peak for one record and for two, as a line."""
    run(1)  # the first call of a model makes what stays: tables, casts, kernels' own memory
    return through(*(peak_bytes(lambda n=n: run(n), device) for n in (1, 2)))


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


def measure(model: nn.Module, config: SemuConfig, predict: Predict, device: torch.device, prompt: int = 0) -> Footprint:
    """Runs the model on one and two records in every way that an erasure does.

    Args:
        prompt: Bytes of what a prompt becomes for the model.
    """
    layers = find_layers(model, config)
    rows, width = rows_of(layers, predict)
    inputs = given(layers, rows, predict, device)
    step, gradient = {}, {}
    for on in (False, True):
        with checkpointing(model, on):
            step[on] = line(lambda n: predict(n, True).float().square().mean().backward(), device)
            gradient[on] = line(lambda n: taken(model, config, predict, n), device)
    with torch.no_grad():
        forward = line(lambda n: predict(n, False), device)
    found = [matrix_shape(layer) for layer in layers.values()]
    return Footprint(forward, step, gradient, found, list(rows.values()), inputs, width, prompt, device)


@torch.no_grad()
def rows_of(layers: dict[str, nn.Module], predict: Predict) -> tuple[dict[str, int], int]:
    """How many rows each layer makes of a record, and the bytes of a number in what the model answers."""
    rows = dict.fromkeys(layers, 0)

    def count(name: str) -> Callable:
        def hook(layer: nn.Module, args: tuple, out: torch.Tensor) -> None:
            rows[name] += out.numel() // matrix_shape(layer)[0]

        return hook

    handles = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]
    width = predict(1, False).element_size()
    for handle in handles:
        handle.remove()
    return rows, width


@torch.no_grad()
def given(layers: dict[str, nn.Module], rows: dict[str, int], predict: Predict, device: torch.device) -> list[Given]:
    """The inputs that moments are summed of, with what one and two records have alive when they come."""
    one, two = (alive(layers, predict, n, device) for n in (1, 2))
    return [Given(matrix_shape(layers[k])[1], rows[k], not is_linear(layers[k]), through(one[k], two[k])) for k in two]


def alive(layers: dict[str, nn.Module], predict: Predict, records: int, device: torch.device) -> dict[str, int]:
    """Bytes that so many records have alive when each input comes to the first layer that it is given to."""
    watch, found = Watch(layers), {}
    with counted(device) as (now, _):
        watch.add = lambda name, x: found.update({name: max(found.get(name, 0), now())})
        handles = [layer.register_forward_pre_hook(watch.hook(name)) for name, layer in layers.items()]
        predict(records, False)
    for handle in handles:
        handle.remove()
    return found


def taken(model: nn.Module, config: SemuConfig, predict: Predict, records: int) -> None:
    """The gradient's pass, each layer's gradient freed as soon as it is there."""
    gradients(model, config, lambda: predict(records, True).float().square().mean().backward(), lambda name, G: None)


def prompt_bytes(family: Family, prompt: str) -> int:
    """Bytes of what a prompt becomes for the model."""
    return sum(value.nbytes for value in family.encode([prompt]).values())


def probe(family: Family, prompt: str) -> Predict:
    """The family's prediction for so many records of a prompt."""
    conditions = family.encode([prompt])

    def predict(records: int, start: bool) -> torch.Tensor:
        x = torch.zeros(records, *family.latent_shape, device=family.device, dtype=family.dtype, requires_grad=start)
        t = family.times(torch.full((records,), 0.5)).to(family.device)
        return family.predict(x, t, select(conditions, torch.zeros(records, dtype=torch.long)))

    return predict
