"""FADE: Kelsch et al., "FADE: Selective Forgetting via Sparse LoRA and Self-Distillation", 2026 (arXiv 2602.07058)."""

from __future__ import annotations

import torch
from peft import LoraConfig
from torch import nn

from .pictures import clean_latents, noising_errors
from .work import Budget, Edited, Work, update

PICTURES, CLIP = 128, 1.0  # for the saliency; most norm of a gradient


def fade(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "image", lr: float = 3e-4, share: float = 0.5,
    keep_weight: float = 1.0, rank: int = 32,
) -> Edited:  # fmt: skip
    """Self-distillation in a sparse LoRA: eps(x_t, c) goes to the frozen eps(x_t, c*), what is kept to its own answers.

    Its variant per module: of all Linear and Conv2d layers the `share` whose weights are the most salient on average
    get a LoRA, with a Gaussian start. The adapter is left on the pipeline, as it would be shipped.
    """
    work = Work(pipe, concept, budget, seed, prompts, steer="concept")
    names = salient(work, share)
    work.model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights="gaussian"))
    parameters = [p for p in work.model.parameters() if p.requires_grad]
    optimizer, n = torch.optim.AdamW(parameters, lr, weight_decay=1e-2), budget.batch_size
    for _ in work.rounds(2 * n):
        index = work.pick(work.forget, n)
        loss = work.distance(index, work.targets(index)) + keep_weight * work.drift(work.pick_kept(n))
        update(optimizer, loss, clip=CLIP)
    return work.done(sum(p.numel() for p in parameters))


def salient(work: Work, share: float) -> list[str]:
    """The layers, `share` of them, with the largest mean |gradient of the denoising loss| by the weight."""
    layers = {name: m for name, m in work.model.named_modules() if type(m) in (nn.Linear, nn.Conv2d)}
    weights = [layer.weight.requires_grad_(True) for layer in layers.values()]
    latents, rows = clean_latents(work)
    total = {name: torch.zeros_like(W) for name, W in zip(layers, weights)}
    for part in torch.arange(min(PICTURES, len(work.forget))).split(2 * work.budget.batch_size):
        loss = noising_errors(work, latents, rows, len(part)).sum()
        for name, grad in zip(layers, torch.autograd.grad(loss, weights, allow_unused=True)):
            if grad is not None:
                total[name] += grad
    work.model.requires_grad_(False)
    ranked = sorted(layers, key=lambda name: -total[name].abs().mean().item())
    return ranked[: max(1, int(share * len(ranked)))]
