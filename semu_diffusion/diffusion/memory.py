"""What fits into --max-memory: how the gradient is summed, whether activations are kept, how a step is divided."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..adapter.base_layers import matrix_shape
from ..adapter.model import find_layers
from ..adapter.moments import COLUMNS, WIDE
from ..adapter.sketch import Maps
from ..adapter.subspace import STACK, SemuConfig
from .config import EraseConfig
from .families import Family, select

CHECKPOINTED = 0.3  # of the activations that are left with gradient checkpointing; an estimate, models differ
GB = 1e9


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def activations(family: Family, layers: dict[str, nn.Module], prompt: str) -> int:
    """Bytes that the forward pass of one record keeps for a backward pass to the weights of these layers."""
    saved: dict[int, torch.UntypedStorage] = {}
    own = {p.untyped_storage().data_ptr() for p in family.model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    device, dtype = family.device, family.dtype
    conditions = select(family.encode([prompt]), torch.zeros(1, dtype=torch.long))
    weights = [layer.weight for layer in layers.values()]
    flags = [w.requires_grad for w in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            x, t = torch.zeros(1, *family.latent_shape, device=device, dtype=dtype), family.times(torch.tensor([0.5]))
            family.predict(x, t.to(device), conditions)
    finally:
        for weight, flag in zip(weights, flags):
            weight.requires_grad_(flag)
    return sum(storage.nbytes() for storage in saved.values())


def needed(config: EraseConfig, fixed: int, record: int, shapes: list[tuple[int, int]]) -> float:
    """Bytes at the worst moment, the gradient's or a training step's.

    Args:
        fixed: Of the models that stay on the device.
        record: Of one record's activations.
        shapes: (m, n) of the adapted layers.
    """
    largest, weights = max(m * n for m, n in shapes), sum(m * n for m, n in shapes)
    if config.sketch:
        maps = Maps(config.sketch)
        sums = sum(min(maps.size(m, n), m * n) for m, n in shapes) + 3 * largest
    else:
        sums = weights + 3 * min(STACK, weights)
    moments = sum(moment_size(n) for _, n in shapes) + 6 * max(moment_size(n) for _, n in shapes)
    moments = moments * (config.geometry == "remain")
    kept = record * (CHECKPOINTED if config.gradient_checkpointing else 1) * 2 * config.batch_size / config.accumulate
    adapter = sum((m + n) * r + 4 * r * r for m, n in shapes for r in [min(config.max_rank, m, n)])
    return fixed + kept + 4 * max(sums + moments, adapter)


def moment_size(n: int) -> int:
    """Numbers that the second moments of n inputs take."""
    return n * min(n, 2 * COLUMNS) if n > WIDE else n * n


def plan(family: Family, config: EraseConfig, adapter: SemuConfig, prompt: str, fixed: int) -> tuple[EraseConfig, str]:
    """The first of some ways, each slower or coarser than the last, that fits; and what it is, in words.

    Raises:
        ValueError: none does; the message says how much the last would need.
    """
    layers = find_layers(family.model, adapter)
    if not layers:
        raise ValueError("the model has no Linear or Conv2d layer that target_modules names")
    shapes, record = [matrix_shape(layer) for layer in layers.values()], activations(family, layers, prompt)
    chosen, words = config, ["whole gradients"]
    for change, said in ways(config):
        if change:
            chosen, words = replace(chosen, **change), [*words, said]
        need = needed(chosen, fixed, record, shapes)
        if need <= config.max_memory * GB:
            told = ", ".join(words[1:] or words)
            return chosen, f"{told}: about {need / GB:.1f} of {config.max_memory:g} GB"
    raise ValueError(
        f"max-memory {config.max_memory:g} GB is too little: about {need / GB:.1f} GB are needed even with "
        f"{', '.join(words[1:])}; use fewer --target-modules or --dtype bf16"
    )


def ways(config: EraseConfig) -> list[tuple[dict, str]]:
    """Changes that save memory, on top of each other."""
    found: list[tuple[dict, str]] = [({}, "")]
    if config.sketch is None:
        columns = max(64, 2 * config.max_rank)
        found.append(({"sketch": columns}, f"gradients as sketches of {columns} columns"))
    if not config.gradient_checkpointing:
        found.append(({"gradient_checkpointing": True}, "gradient checkpointing"))
    parts = [n for n in range(2, config.batch_size + 1) if config.batch_size % n == 0 and n % config.accumulate == 0]
    found += [({"accumulate": n}, f"steps in {n} parts") for n in parts if n > config.accumulate]
    if config.geometry == "remain":
        found.append(({"geometry": "euclidean"}, "the euclidean geometry"))
    return found
