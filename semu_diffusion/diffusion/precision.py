"""Precision of a run: autocast, loss scaling for fp16, and what is said of layers that get no adapter."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from ..adapter.gradients import LossScale
from .config import EraseConfig

FIRST_SCALE = 2.0**16  # of losses in fp16; what overflows goes on with less
NAMED = 5  # layers without an adapter that are named where there are more


def make_accelerator(config: EraseConfig, folder: Path | None, device: torch.device) -> Accelerator:
    """The accelerator of a run, with the precision that it asks for.

    Raises:
        ValueError: bf16 on a GPU that has none.
    """
    AcceleratorState._reset_state()  # else a second run in one process could not choose its own precision
    if config.mixed_precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("this GPU has no bf16; use --mixed-precision fp16, or no")
    accelerator = Accelerator(mixed_precision=config.mixed_precision, log_with=config.tracker,
                              project_dir=folder and str(folder), cpu=device.type == "cpu",
                              # U and V are buffers, and the same everywhere since make_bases
                              kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])  # fmt: skip
    if config.mixed_precision == "fp16":
        accelerator.native_amp = True  # which accelerate leaves out on a CPU, without a word
    return accelerator


def loss_scale(accelerator: Accelerator, dtype: torch.dtype) -> LossScale | None:
    """The scale of losses where gradients pass through fp16, by the model's own dtype or by autocast; else None."""
    fp16 = accelerator.mixed_precision == "fp16" or (accelerator.mixed_precision == "no" and dtype == torch.float16)
    return LossScale(FIRST_SCALE) if fp16 else None


def set_scaler(accelerator: Accelerator, scale: LossScale | None) -> None:
    """Training begins with the scale at which the forgetting gradient did not overflow; it is never raised again."""
    device = accelerator.device.type
    never = torch.iinfo(torch.int32).max
    accelerator.scaler = scale and torch.amp.GradScaler(device, init_scale=scale.value, growth_interval=never)


def left_out(names: list[str], targeted: int) -> str:
    """What is said of targeted layers that get no adapter."""
    few = named_few(names)
    return f"{len(names)} of {targeted} targeted layers have no forgetting gradient and stay as they are: {few}"


def named_few(names: list[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
