"""ESD: Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023 (arXiv 2303.07345)."""

from __future__ import annotations

import torch

from .registry import Eraser
from .task import Task
from .training import train


def esd(task: Task) -> dict[str, torch.Tensor]:
    """Eq. 7: eps(x_t, c) is led to eps*(x_t) - strength (eps*(x_t, c) - eps*(x_t)) of the frozen model.

    The paper draws x_t with the model under training; here it comes from the frozen model's trajectories under c, and
    the frozen predictions with it.
    """
    config = task.config
    task.draw("concept")

    def loss() -> torch.Tensor:
        index = task.pick(task.forget, config.batch_size)
        return task.distance(index, task.targets(index, "negative", config.strength))

    return train(task, loss)


ESD_X = Eraser(
    title="ESD-x",
    paper="arXiv 2303.07345",
    edit=esd,
    families=("StableDiffusion", "StableDiffusionXL"),
    takes=("prompts", "strength", "lr", "steps", "batch_size", "latents", "sampler_steps", "guidance"),
    # The concept's name alone, as its authors train it: away from sentences is away from all that they name.
    defaults={
        "objective": "negative", "target_modules": "cross-attention", "strength": 1.0, "lr": 1e-4, "steps": 300,
        "batch_size": 16, "compress": 0.99,
    },
)  # fmt: skip
