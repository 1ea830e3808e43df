"""What an erasure costs, counted on models of "meta" tensors: operations, activations and bytes, per record and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from semu_diffusion.adapter import SemuConfig, moments
from semu_diffusion.adapter.base_layers import matrix_shape
from semu_diffusion.adapter.decompose import choose_method, expected_columns
from semu_diffusion.adapter.model import find_layers
from semu_diffusion.adapter.sketch import Maps
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.schedule import CHECK_EVERY
from semu_diffusion.diffusion.trainer import HELD_OUT

from .models import VARIANTS, inputs, make, ranks, restore, shapes

COLUMNS = 64  # of the gradient's sketches


@dataclass
class Step:
    """Operations and bytes of saved activations of one record's forward and backward, and what is trained."""

    flops: float
    saved: int
    trained: int


def counted(model: nn.Module, call: Callable) -> float:
    """Floating point operations of one forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(model)
    return counter.get_total_flops()


def moments_cost(model: nn.Module, call: Callable) -> tuple[float, int]:
    """Operations of adding one record to the second moments of all inputs, each once, without its forward pass; and
    the bytes of these sums."""
    total, size, layers = 0.0, 0, find_layers(model, SemuConfig())
    watch = moments.Watch(layers)

    def counter(name: str) -> Callable:
        def count(layer: nn.Module, args: tuple, output: torch.Tensor) -> None:
            nonlocal total, size
            m, n = matrix_shape(layer)
            if watch.first_given(name, args[0]) == name:  # q, k and v share what they are given
                total += 2 * output.numel() / m * n * (n if n <= moments.WIDE else 2 * moments.COLUMNS)
                size += 4 * n * (n if n <= moments.WIDE else moments.COLUMNS)

        return count

    handles = [layer.register_forward_hook(counter(name)) for name, layer in layers.items()]
    with torch.no_grad():
        call(model)
    for handle in handles:
        handle.remove()
    return total, size


class Fused(torch.autograd.Function):
    """Attention as fused kernels keep it: its inputs and its output, not the (tokens, tokens) matrix between."""

    @staticmethod
    def forward(ctx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(part) for part in ctx.saved_tensors[:3])


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_, **__) -> torch.Tensor:
    """`F.scaled_dot_product_attention` for counting bytes; meta tensors would take the unfused way."""
    return Fused.apply(query, key, value)


def count_step(model: nn.Module, call: Callable, variant: str, rank: int) -> Step:
    """One training step of a variant on meta tensors; parameters that are saved for the backward are not counted."""
    trained = sum(p.numel() for p in VARIANTS[variant](model, rank))
    held = {id(p.untyped_storage()) for p in model.parameters()}
    known = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known and id(storage) not in held:
            saved[storage._cdata] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        call(model).square().mean().backward()
    with mock.patch.object(F, "scaled_dot_product_attention", fused):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call(model)
    found = Step(counter.get_total_flops(), sum(storage.nbytes() for storage in saved.values()), trained)
    restore(model)
    return found


def basis_flops(layers: dict[str, tuple[int, ...]], rank: int) -> list[float]:
    """Operations of each layer's decomposition, for flat spectra; steep ones take less."""
    costs = []
    for shape in layers.values():
        m, n = sorted((shape[0], int(torch.tensor(shape[1:]).prod())))
        k = expected_columns(m, rank)
        quick = min(4 * m * n * k, m**2 * n + 2 * m**2 * k) + 4 * m * k**2 + 20 * k**3
        own = quick if choose_method(m, n, rank) == "randomized" else m**2 * n + 20 * m**3
        costs.append(own + 2 * m * n * rank)  # the other side of the basis
    return costs


def sketch_bytes(layers: dict[str, tuple[int, ...]]) -> int:
    """fp32 bytes of the gradient's sums, as sketches where those are smaller."""
    maps, total = Maps(COLUMNS), 0
    for shape in layers.values():
        m, n = shape[0], int(torch.tensor(shape[1:]).prod())
        total += maps.size(m, n) if 2 * maps.size(m, n) < m * n else m * n
    return 4 * total


@dataclass
class Model:
    """Everything that the tables need of one model, per record."""

    name: str
    parameters: int
    layers: int
    forward: float
    semu: Step
    full: Step
    lora: Step
    adapter: int
    moments: float
    basis: float
    sketch: int
    largest: float = 0.0  # of the layers' decompositions, which one GPU does
    summed: int = 0  # bytes of the second moments


def describe(name: str, rank: int, **changes) -> Model:
    """Counts one model at batch 1."""
    model = make(name, "meta", **changes)
    call, layers = inputs(name, model, 1, "meta"), shapes(model)
    sides = {k: (shape[0], int(torch.tensor(shape[1:]).prod())) for k, shape in layers.items()}
    adapter = 4 * sum((sum(sides[k]) + r) * r for k, r in ranks(model, rank).items())
    forward, parameters = counted(model, call), sum(p.numel() for p in model.parameters())
    steps = {variant: count_step(model, call, variant, rank) for variant in ("semu", "full", "lora")}
    (flops, summed), costs = moments_cost(model, call), basis_flops(layers, rank)
    sizes = {"adapter": adapter, "moments": flops, "basis": sum(costs), "largest": max(costs), "summed": summed}
    return Model(name, parameters, len(layers), forward, **steps, **sizes, sketch=sketch_bytes(layers))


def most(count: int, gpus: int) -> int:
    """How many of so many a GPU has at most."""
    return -(-count // gpus)


def run_flops(m: Model, config: EraseConfig, gpus: int, batch: int) -> dict[str, float]:
    """Operations of each stage of a whole run, of the GPU that has most to do.

    Three predictions (concept, anchor, empty prompt) a state at most; the gradient needs those of the weights too.
    """
    latents = most(config.latents, gpus) + most(config.keep_latents, gpus)
    checks = config.steps // CHECK_EVERY * most(HELD_OUT, gpus)
    return {
        "latents": 3 * latents * config.sampler_steps * m.forward,
        "gradient": most(config.gradient_records, gpus) * m.full.flops,
        "bases": max(m.basis / gpus, m.largest) + most(config.moment_records, gpus) * (m.forward + m.moments),
        "training": config.steps * 2 * batch / gpus * m.semu.flops + checks * m.forward,
    }


def moved_bytes(m: Model, config: EraseConfig, gpus: int) -> dict[str, float]:
    """Bytes that each GPU sends: a ring's all-reduce of R's gradient per step, and once those of the weights' gradients
    and of the second moments, and its share of the bases to all others."""
    ring = 2 * (gpus - 1) / gpus * 4
    return {"SEMU": ring * m.semu.trained, "LoRA": ring * m.lora.trained, "full": ring * m.full.trained,
            "once": ring * (m.full.trained + m.summed / 4) + (gpus - 1) / gpus * m.adapter}  # fmt: skip


def memory(m: Model, records: int, weight_bytes: int) -> dict[str, float]:
    """Bytes per GPU: weights, adapter or gradients with Adam's moments, saved activations of `records` records."""
    weights, half = weight_bytes * m.parameters, weight_bytes / 4
    return {
        "weights": weights,
        "SEMU": weights + m.adapter + 12 * m.semu.trained + records * m.semu.saved * half,
        "LoRA": weights + 16 * m.lora.trained + records * m.lora.saved * half,
        "full": weights + 12 * m.full.trained + records * m.full.saved * half,
        "gradient, whole": weights + 4 * m.full.trained + m.full.saved * half,
        "gradient, sketched": weights + m.sketch + m.full.saved * half,
    }
