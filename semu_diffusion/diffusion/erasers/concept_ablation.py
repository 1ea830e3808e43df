"""Concept Ablation: Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023
(arXiv 2303.13516)."""

from __future__ import annotations

import torch

from .registry import Eraser
from .task import Task
from .training import train


def concept_ablation(task: Task) -> dict[str, torch.Tensor]:
    """The model-based variant (eq. 4): eps(x_t, c) is led to eps(x_t, c*) at noised pictures of the anchor c*.

    `keep_weight` weighs the loss that keeps the anchor's own prediction there. What is trained are the keys and values
    of cross-attention, the paper's default.
    """
    config = task.config
    task.draw("anchor")

    def loss() -> torch.Tensor:
        index = task.pick(task.forget, config.batch_size)
        stays = task.drift(task.pick(task.anchors, config.batch_size))
        return task.distance(index, task.targets(index)) + config.keep_weight * stays

    return train(task, loss)


CONCEPT_ABLATION = Eraser(
    title="Concept Ablation",
    paper="arXiv 2303.13516",
    edit=concept_ablation,
    families=("StableDiffusion", "StableDiffusionXL"),
    takes=(
        "anchor", "prompts", "keep_weight", "lr", "steps", "batch_size", "latents", "sampler_steps", "guidance",
    ),
    defaults={"target_modules": "keys-values", "lr": 3e-4, "steps": 300, "batch_size": 8, "compress": 0.99},
)  # fmt: skip
