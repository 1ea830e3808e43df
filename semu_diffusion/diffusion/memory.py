"""One budget for everything that a run puts on its device: which sums, where they lie, and the size of every batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from ..adapter.moments import COLUMNS, WIDE
from ..adapter.sketch import Maps
from ..adapter.subspace import STACK
from .config import EraseConfig
from .devices import module_bytes, modules_of
from .footprint import Footprint

GB = 1e9
SPARE = 0.95  # of the free memory that is planned with; the rest is the allocator's
HOST_SHARE = 0.7  # of the free host memory that sums may take
PREDICTIONS = 3  # at most, of each latent that is drawn: for its concept, its anchor and the empty prompt


@dataclass
class Batches:
    """How many records run together in each stage, and whether sums lie in the host's memory."""

    drawn: int = 32
    moments: int = 32
    gradient: int = 16
    checked: int = 32
    on_host: bool = False
    words: str = ""


def parts_of(index: torch.Tensor, at_once: int) -> list[torch.Tensor]:
    """Records in parts of at most so many; none where there are no records."""
    return [part for part in index.split(at_once) if len(part)]


def pipeline_bytes(pipe) -> int:
    """Bytes of all models of a pipeline."""
    return sum(map(module_bytes, modules_of(pipe)))


def budget(config: EraseConfig, device: torch.device, present: int) -> float | None:
    """Bytes that a run may take on its device: --max-memory, else what a GPU has free, `present` bytes of models that
    are there already included; None on a CPU without --max-memory."""
    if config.max_memory is not None:
        return config.max_memory * GB
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return SPARE * (free + unused + present)


def host_room() -> float:
    """Bytes of host memory that sums may take."""
    return HOST_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def moment_size(n: int) -> int:
    """Numbers that the second moments of n inputs take."""
    return n * min(n, 2 * COLUMNS) if n > WIDE else n * n


def gradient_sums(config: EraseConfig, shapes: list[tuple[int, int]]) -> int:
    """Bytes of the summed gradients of all layers, whole or sketched."""
    if not config.sketch:
        return 4 * sum(m * n for m, n in shapes)
    maps = Maps(config.sketch)
    sides = {("left", m) for m, _ in shapes} | {("right", n) for _, n in shapes}
    random = sum(length * 3 * config.sketch for _, length in sides)
    sketched = [maps.size(m, n) if 2 * maps.size(m, n) < m * n else m * n for m, n in shapes]
    return 4 * (sum(sketched) + random)


def moment_sums(config: EraseConfig, inputs: list[int]) -> int:
    """Bytes of the second moments of all inputs, each once."""
    return 4 * sum(map(moment_size, inputs)) * (config.geometry == "remain")


def basis_work(config: EraseConfig, plan: Batches, shapes: list[tuple[int, int]]) -> int:
    """Bytes that the basis of the largest layer takes while it is worked out: root, whitened gradient, factors."""
    largest = max(shapes, key=lambda s: s[0] * s[1] + min(s[1], WIDE) ** 2)
    m, n = largest
    root = 16 * min(n, WIDE) ** 2 * (config.geometry == "remain")  # C and its root, in fp64
    stacked = config.geometry == "euclidean" and not plan.on_host and not config.sketch
    together = 4 * min(STACK, sum(a * b for a, b in shapes)) if stacked else 0
    return root + max(28 * m * n, 3 * together)


def stages(config: EraseConfig, plan: Batches, fixed: int, foot: Footprint) -> dict[str, float]:
    """Bytes on the device at the worst moment of each stage.

    Args:
        fixed: Of the models that stay there; text encoders and autoencoder are not, but for the moment they work.
        foot: Of the records.
    """
    C, G = moment_sums(config, foot.inputs), gradient_sums(config, foot.shapes)
    largest_C = 4 * max(map(moment_size, foot.inputs)) * (config.geometry == "remain")
    largest = 4 * max(m * n for m, n in foot.shapes)
    rows = max(rows * n for rows, (_, n) in zip(foot.rows, foot.shapes))  # of one record, unfolded for the moments
    unfolded = 8 * min(STACK, rows * plan.moments) * (config.geometry == "remain")
    held = 0 if plan.on_host else C
    sums = 0 if plan.on_host else G
    ranks = [min(config.max_rank, m, n) for m, n in foot.shapes]
    adapter = 4 * sum((m + n) * r + 4 * r * r for (m, n), r in zip(foot.shapes, ranks))
    beside = 2 * sum(rows * r for rows, r in zip(foot.rows, ranks))  # V^T x, kept for the gradient of R
    on = config.gradient_checkpointing
    step = foot.step[on]
    records = max(1, 2 * config.batch_size // config.accumulate)
    return {
        "drawing": fixed + foot.forward(PREDICTIONS * plan.drawn),
        "moments": fixed + held + 2 * largest_C + foot.forward(plan.moments) + unfolded,
        "gradient": fixed + held + sums + 2 * largest * plan.on_host + foot.gradient[on](plan.gradient),
        "bases": fixed + held + sums + basis_work(config, plan, foot.shapes) + largest_C,
        "training": fixed + adapter + step(records) + (1 if on else records) * beside,
        "checks": fixed + adapter + foot.forward(plan.checked),
    }


def fitted_batches(config: EraseConfig, plan: Batches, fixed: int, foot: Footprint, room: float) -> Batches:
    """The plan with as many records together in each stage as there is room for, at least one."""
    alone = stages(config, replace(plan, drawn=1, moments=1, gradient=1, checked=1), fixed, foot)
    forward, back = foot.forward, foot.gradient[config.gradient_checkpointing]
    left = lambda stage, used: room - alone[stage] + used  # noqa: E731
    most = lambda line, stage, ones, cap: max(1, min(cap, line.most(left(stage, line(ones))) // ones))  # noqa: E731
    return replace(
        plan,
        drawn=most(forward, "drawing", PREDICTIONS, plan.drawn),
        moments=most(forward, "moments", 1, plan.moments),
        gradient=most(back, "gradient", 1, plan.gradient),
        checked=most(forward, "checks", 1, plan.checked),
    )


def ways(config: EraseConfig, host: bool) -> list[tuple[dict, str]]:
    """Changes that save memory, on top of each other, each slower or coarser than the last.

    Args:
        host: Whether there is another memory than the device's; `on_host` is a field of the plan.
    """
    columns = max(64, 2 * config.max_rank)
    sketched = {"sketch": columns}, f"gradients as sketches of {columns} columns"
    found: list[tuple[dict, str]] = [({}, "")]
    if host:
        found.append(({"on_host": True}, "sums in host memory"))
    elif config.sketch is None:
        found.append(sketched)
    if not config.gradient_checkpointing:
        found.append(({"gradient_checkpointing": True}, "gradient checkpointing"))
    parts = [n for n in range(2, config.batch_size + 1) if config.batch_size % n == 0 and n % config.accumulate == 0]
    found += [({"accumulate": n}, f"steps in {n} parts") for n in parts if n > config.accumulate]
    if not host and config.geometry == "remain":
        found.append(({"geometry": "euclidean"}, "the euclidean geometry"))
    return found


def default_batches(config: EraseConfig) -> Batches:
    """The batches where memory is no matter."""
    gradient = max(1, 2 * config.batch_size // config.accumulate)
    return Batches(gradient=gradient, checked=4 * config.batch_size)


def plan_memory(
    config: EraseConfig, fixed: int, foot: Footprint, room: float, host: float | None
) -> tuple[EraseConfig, Batches]:
    """The first way that fits into so many bytes, and what it is in words.

    Sums that do not fit on the device go to the host, and become sketches where they do not fit there either.

    Args:
        room: Bytes on the device.
        host: Bytes in the host's memory; None where the device is the host.

    Raises:
        ValueError: none does; the message says how much the last would need.
    """
    start, words = default_batches(config), []
    chosen, plan, need = config, start, {}
    for change, said in ways(config, host is not None):
        on_host = change.get("on_host", plan.on_host)
        plan = replace(plan, on_host=on_host)
        chosen = replace(chosen, **{k: v for k, v in change.items() if k != "on_host"})
        words += [said] if said else []
        moments = moment_sums(chosen, foot.inputs) if on_host else 0
        if on_host and chosen.sketch is None and gradient_sums(chosen, foot.shapes) + moments > host:
            chosen = replace(chosen, sketch=max(64, 2 * config.max_rank))
            words.append(f"gradients as sketches of {chosen.sketch} columns")
        if on_host and moments and gradient_sums(chosen, foot.shapes) + moments > host:
            chosen = replace(chosen, geometry="euclidean")
            words.append("the euclidean geometry")
        tried = fitted_batches(chosen, plan, fixed, foot, room)
        need = stages(chosen, tried, fixed, foot)
        if max(need.values()) <= room:
            return chosen, replace(tried, words=told(words, start, tried, need, room))
    worst = max(need, key=need.get)
    raise ValueError(
        f"max-memory {room / GB:.3g} GB is too little: {worst} needs about {need[worst] / GB:.1f} GB even with "
        f"{', '.join(words)}; use fewer --target-modules, --dtype bf16 or a quantised model"
    )


def told(words: list[str], start: Batches, plan: Batches, need: dict[str, float], room: float) -> str:
    """What was chosen, in words."""
    names = {
        "drawn": "latents",
        "moments": "records for moments",
        "gradient": "for the gradient",
        "checked": "to check",
    }
    fewer = [f"{getattr(plan, k)} {said}" for k, said in names.items() if getattr(plan, k) < getattr(start, k)]
    chosen = ", ".join([*words, *(["at a time " + ", ".join(fewer)] if fewer else [])]) or "everything as it is"
    return f"{chosen}: about {max(need.values()) / GB:.1f} of {room / GB:.3g} GB"
