"""A training loop with moving average and checkpoints, for one process or many."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm-up over 200 steps (of a short run, a tenth), then linear to 0."""
    warm = min(200, max(1, steps // 10))
    rate = lambda k: min((k + 1) / warm, max(0.0, 1 - k / steps))  # noqa: E731
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def fit(name: str, model: nn.Module, loss: Callable[[int], torch.Tensor], args, steps: int, lr: float) -> nn.Module:
    """Trains `model` on `loss(step)` with AdamW and returns its moving average; resumes from the stage's folder."""
    accelerator, folder = args.accelerator, args.workdir / name
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = schedule(optimizer, steps)
    optimizer = accelerator.prepare(optimizer)  # a prepared scheduler would take one step per process
    ema = EMAModel(weights, decay=0.999, use_ema_warmup=True, power=0.75)
    start, saved = load_state(folder, model, optimizer, scheduler, ema), time.time()
    log = (folder / "loss.txt").open("a")
    for step in range(start, steps):
        value = loss(step)
        accelerator.backward(value)
        average_gradients(accelerator, weights)
        accelerator.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        ema.step(weights)
        if step % 50 == 0 and accelerator.is_main_process:
            print(f"{name} {step}/{steps} loss {value.item():.4f}", file=log, flush=True)
        if accelerator.is_main_process and time.time() - saved > args.save_every:
            save_state(folder, step + 1, model, optimizer, scheduler, ema)
            saved = time.time()
    if accelerator.is_main_process:
        save_state(folder, steps, model, optimizer, scheduler, ema)
    accelerator.wait_for_everyone()
    ema.copy_to(weights)
    return model.eval()


def average_gradients(accelerator: Accelerator, weights: list[nn.Parameter]) -> None:
    """The mean over processes, in one message: the losses call several modules, so DistributedDataParallel won't do."""
    if accelerator.num_processes == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in weights])
    flat = accelerator.reduce(flat, reduction="mean")
    for p, part in zip(weights, flat.split([p.numel() for p in weights]), strict=True):
        p.grad.copy_(part.view_as(p))


def save_state(folder: Path, step: int, model, optimizer, scheduler, ema) -> None:
    """Everything needed to go on, under a temporary name first."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "ema": ema.state_dict(),
    }
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def load_state(folder: Path, model, optimizer, scheduler, ema) -> int:
    """Restores what `save_state` wrote; returns the step to go on from (0 where nothing was saved)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "state.pt").exists():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if state["scheduler"]["last_epoch"] == state["step"]:
        scheduler.load_state_dict(state["scheduler"])
    ema.load_state_dict(state["ema"])
    return state["step"]


def averaged(folder: Path, model: nn.Module) -> nn.Module:
    """The model with the moving average of a stage that is under way or done."""
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    weights = [p for p in model.parameters() if p.requires_grad]
    for weight, average in zip(weights, state["ema"]["shadow_params"], strict=True):
        weight.data.copy_(average)
    return model.eval()
