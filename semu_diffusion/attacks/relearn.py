"""Relearning: fine-tuning on a few forgotten pictures, and benign fine-tuning on others, as curves over steps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from peft import LoraConfig
from torch import nn

from .target import Pictures, Target, flatten

KINDS = ("lora", "full")


def trainable(model: nn.Module, kind: str, rank: int) -> list[nn.Parameter]:
    """What is trained: everything, or a new LoRA on the attention layers.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"relearning must be one of {', '.join(KINDS)}, got {kind!r}")
    model.requires_grad_(False)
    if kind == "lora":
        names = [name for name, m in model.named_modules() if ".attn" in name and type(m) is nn.Linear]
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names))
    else:
        model.requires_grad_(True)
    return [p for p in model.parameters() if p.requires_grad]


def fine_tune(
    target: Target,
    pictures: Pictures,
    kind: str = "lora",
    steps: int = 200,
    lr: float = 1e-4,
    rank: int = 8,
    batch: int = 8,
    seed: int = 0,
    probe_at: tuple[int, ...] = (),
    probe: Callable[[Target], dict] | None = None,
    until: float | None = None,
) -> tuple[Target, list[dict]]:
    """Fine-tunes a copy of the denoiser by its training loss; every tenth prompt is left empty.

    Args:
        probe_at: Steps at which `probe` looks at the model.
        until: A success of the probe at which the attack is over; None goes on to the last step.

    Returns:
        The fine-tuned target, merged, and [{"step", "loss", **probe}] at those steps.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the LoRA's first matrix
        model = copy.deepcopy(target.model)
        parameters = trainable(model, kind, rank)
    tuned, generator = target.with_model(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        texts, empty = target.encode(target.ids(pictures.prompts)), target.encode(target.ids([""]))[0]
    optimizer, curve, last = torch.optim.Adam(parameters, lr), [], float("nan")
    for step in range(steps + 1):
        if step in probe_at and probe:
            with torch.no_grad():
                curve.append({"step": step, "loss": last, **probe(tuned)} if step else {"step": 0, **probe(tuned)})
        if step == steps or (until is not None and curve and curve[-1]["success"] >= until):
            break
        noised = target.noised(pictures, batch, generator)
        text = texts[noised.picture]
        text[torch.rand(batch, generator=generator) < 0.1] = empty
        loss = tuned.loss(noised, text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
    flatten(model)
    return tuned, curve


def steps_to(curve: list[dict], success: float) -> int | None:
    """The first step of a curve at which the attack succeeds that often; None where it never does."""
    return next((row["step"] for row in curve if row["success"] >= success), None)
