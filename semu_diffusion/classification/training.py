"""Training a classifier from its data, and its logits over a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..adapter.gradients import eval_mode
from .checkpoint import Checkpoint
from .data import Augment, as_dataset, batches, take
from .losses import logits_of


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def predict(
    model: nn.Module, data: Dataset, batch_size: int = 256, augment: Augment | None = None, seed: int = 0
) -> Tensor:
    """The logits (N, C) of all examples, on the CPU; in eval mode, the model's own mode is put back."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    with eval_mode(model):
        for x, _ in batches(as_dataset(data), batch_size):
            x = augment(x, generator) if augment else x
            found.append(logits_of(model(x.to(device_of(model)))).float().cpu())
    return torch.cat(found)


def batch_loss(model: nn.Module, x: Tensor, y: Tensor, bf16: bool = False, channels_last: bool = False) -> Tensor:
    """The cross-entropy of inputs (B, ...) and labels (B,), where the model is; the loss itself in float32."""
    device = device_of(model)
    x = x.to(device, memory_format=torch.channels_last if channels_last and x.ndim == 4 else torch.preserve_format)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = logits_of(model(x))
    return F.cross_entropy(logits.float(), y.to(device))


def fit(
    model: nn.Module,
    data: Dataset,
    epochs: int = 12,
    lr: float = 0.05,
    batch_size: int = 64,
    weight_decay: float = 5e-4,
    augment: Augment | None = None,
    seed: int = 0,
    report: Callable[[dict], None] | None = None,
    bf16: bool = False,
    channels_last: bool = False,
    checkpoint: str | Path | None = None,
) -> nn.Module:
    """Trains a classifier by SGD with momentum, one cycle of the learning rate; the same for the same seed.

    Args:
        bf16: Run the network in bfloat16 by autocast; the weights and the loss stay in float32.
        channels_last: Lay out weights and pictures (B, C, H, W) with the channels last: faster convolutions on many
            processors and GPUs, the same numbers up to rounding.
        checkpoint: File to which the run's state goes after each epoch, and from which a stopped run goes on; it ends
            up with the same weights as one that was not stopped.

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: the checkpoint is of another run.
    """
    data, generator = as_dataset(data), torch.Generator().manual_seed(seed)
    whole = max(1, len(data) // batch_size) * min(batch_size, len(data))  # BatchNorm dislikes a small last batch
    model.to(memory_format=torch.channels_last if channels_last else torch.preserve_format)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    steps = epochs * -(-whole // batch_size)
    warm = 0.2 if steps != 5 else 0.25  # OneCycleLR divides by warm * steps - 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=warm)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout
        run = {"examples": len(data), "epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed}
        run |= {"weight_decay": weight_decay, "bf16": bf16, "channels_last": channels_last}
        kept = checkpoint and Checkpoint(Path(checkpoint), model, optimizer, schedule, generator, run)
        for epoch in range(kept.load() if kept else 0, epochs):
            for index in torch.randperm(len(data), generator=generator)[:whole].split(batch_size):
                x, y = take(data, index)
                x = augment(x, generator) if augment else x
                loss = batch_loss(model, x, y, bf16, channels_last)
                if not loss.isfinite():
                    raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}; lower the learning rate")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            if kept:
                kept.save(epoch + 1)
            if report:
                report({"epoch": epoch + 1, "loss": loss.item()})
    return model.eval()
