"""A training loop with moving average and checkpoints, for one process or many."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from torch import nn

from semu_diffusion.adapter.weights import save_atomic

STATE = "state.safetensors"  # of a stage that is under way or done


def indices(count: int, batch: int, step: int, seed: int, rank: int) -> torch.Tensor:
    """The batch of a step: a function of (seed, step, rank), so that resuming needs no data-loader state."""
    generator = torch.Generator().manual_seed(hash((seed, step, rank)) % 2**63)
    return torch.randint(count, (batch,), generator=generator)


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm-up over 200 steps (of a short run, a tenth), then linear to 0."""
    warm = min(200, max(1, steps // 10))
    rate = lambda k: min((k + 1) / warm, max(0.0, 1 - k / steps))  # noqa: E731
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def fit(
    name: str, model: nn.Module, loss: Callable[[int], torch.Tensor], args, steps: int, lr: float, decay: float = 0.999
) -> nn.Module:
    """Trains `model` on `loss(step)` with AdamW and returns its moving average; resumes from the stage's folder."""
    accelerator, folder = args.accelerator, args.workdir / name
    weights = [p for p in model.parameters() if p.requires_grad]
    fused = all(w.is_cuda for w in weights)
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
    scheduler = schedule(optimizer, steps)
    optimizer = accelerator.prepare(optimizer)  # a prepared scheduler would take one step per process
    ema = EMAModel(weights, decay=decay, use_ema_warmup=True, power=0.75, foreach=True)
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
    """Everything needed to go on: tensors under flat names, the rest in the header; a temporary name first."""
    average, moments = ema.state_dict(), optimizer.state_dict()
    tensors = {f"model.{name}": value.clone() for name, value in model.state_dict().items()}  # clones: some may be tied
    tensors |= {f"ema.{k}": value for k, value in enumerate(average.pop("shadow_params"))}
    tensors |= {f"adam.{k}.{name}": v for k, row in moments["state"].items() for name, v in row.items()}
    rates = [group["lr"] for group in moments["param_groups"]]
    header = {"step": step, "rates": rates, "scheduler": scheduler.state_dict(), "ema": average}
    save_atomic(tensors, folder / STATE, {"training": json.dumps(header)})


def read_state(folder: Path) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """The header of a state, and its tensors by group: model, ema, adam."""
    groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "adam": {}}
    with safe_open(folder / STATE, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            group, _, name = key.partition(".")
            groups[group][name] = file.get_tensor(key)
        return json.loads(file.metadata()["training"]), groups


def put_average(shadow: list[torch.Tensor], stored: dict[str, torch.Tensor]) -> None:
    """Copies the moving average into tensors of the same order and number."""
    if len(shadow) != len(stored):
        raise ValueError(f"the saved state averages {len(stored)} weights, the model trains {len(shadow)}")
    for k, average in enumerate(shadow):
        average.data.copy_(stored[str(k)])


def load_state(folder: Path, model, optimizer, scheduler, ema) -> int:
    """Restores what `save_state` wrote; returns the step to go on from (0 where nothing was saved)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STATE).exists():
        return 0
    header, tensors = read_state(folder)
    model.load_state_dict(tensors["model"])
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in tensors["adam"].items():
        k, _, name = key.partition(".")
        state["state"].setdefault(int(k), {})[name] = value
    for group, rate in zip(state["param_groups"], header["rates"], strict=True):
        group["lr"] = rate
    optimizer.load_state_dict(state)
    if header["scheduler"]["last_epoch"] == header["step"]:
        scheduler.load_state_dict(header["scheduler"])
    put_average(ema.shadow_params, tensors["ema"])
    ema.load_state_dict(header["ema"])
    return header["step"]


def averaged(folder: Path, model: nn.Module) -> nn.Module:
    """The model with the moving average of a stage that is under way or done."""
    _, tensors = read_state(folder)
    model.load_state_dict(tensors["model"])
    put_average([p for p in model.parameters() if p.requires_grad], tensors["ema"])
    return model.eval()
