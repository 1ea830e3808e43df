"""One budget for everything that a run puts on its device: which sums, where they lie, and the size of every batch."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass, replace

import torch

from .config import EraseConfig
from .devices import module_bytes, modules_of
from .footprint import Footprint
from .sums import basis_peak, closing, gradient_sums, moment_bytes, moment_sums, summing

GB = 1e9
SPARE = 0.95  # of the free memory that is planned with; the rest is the allocator's
HOST_SHARE = 0.7  # of the free host memory that sums may take
PREDICTIONS = 3  # of each latent that is drawn of the concept: for that, its anchor and the empty prompt; others have 2


STAGE_OF = {"drawn": "drawing", "moments": "moments", "gradient": "gradient", "checked": "checks"}  # by batch


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


def stages(config: EraseConfig, plan: Batches, fixed: int, foot: Footprint) -> dict[str, float]:
    """Bytes on the device at the worst moment of each stage.

    Args:
        fixed: Of the models that stay there; text encoders and autoencoder are not, but for the moment they work.
        foot: Of the records.
    """
    C, G = moment_sums(config, foot.inputs), gradient_sums(config, foot.shapes)
    here = not plan.on_host
    held, sums = C * here, G * here
    brought = 0 if here or not C else max(moment_bytes(x.n) for x in foot.inputs)  # for the layer that is worked on
    largest = 4 * max(m * n for m, n in foot.shapes)
    ranks = [min(config.max_rank, m, n) for m, n in foot.shapes]
    adapter = 4 * sum((m + n) * r + 4 * r * r for (m, n), r in zip(foot.shapes, ranks))
    beside = foot.width * sum(rows * r for rows, r in zip(foot.rows, ranks))  # V^T x, kept for the gradient of R
    on = config.gradient_checkpointing
    step = foot.step[on]
    records = max(1, 2 * config.batch_size // config.accumulate)
    drawn = max(PREDICTIONS * min(plan.drawn, config.latents), (PREDICTIONS - 1) * min(plan.drawn, config.keep_latents))
    summed = max(summing(foot, plan.moments), closing(foot.inputs)) * (config.geometry == "remain")
    return {
        "drawing": fixed + foot.forward(drawn) + drawn * foot.prompt,
        "moments": fixed + held + summed,
        "gradient": fixed + held + sums + 2 * largest * plan.on_host + foot.gradient[on](plan.gradient),
        "bases": fixed + held + brought + basis_peak(config, foot, here and not config.sketch)
        + sums * bool(config.sketch),
        "training": fixed + adapter + step(records) + (1 if on else records) * beside,
        "checks": fixed + adapter + foot.forward(plan.checked),
    }  # fmt: skip


def fitted_batches(config: EraseConfig, plan: Batches, fixed: int, foot: Footprint, room: float) -> Batches:
    """The plan with as many records together in each stage as there is room for, at least one."""
    fits = {}
    for name, stage in STAGE_OF.items():
        need = lambda k: stages(config, replace(plan, **{name: k}), fixed, foot)[stage]  # noqa: B023, E731
        fits[name] = max(1, bisect_right(range(1, getattr(plan, name) + 1), room, key=need))
    return replace(plan, **fits)


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
    """The batches where memory is no matter: no more than there are records."""
    gradient = max(1, 2 * config.batch_size // config.accumulate)
    return Batches(
        moments=min(Batches.moments, config.moment_records),
        gradient=min(gradient, config.gradient_records),
        checked=4 * config.batch_size,
    )


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
