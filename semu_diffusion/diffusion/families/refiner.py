"""The refiner of Stable Diffusion XL."""

from __future__ import annotations

import torch

from .base import Conditions
from .stable_diffusion_xl import StableDiffusionXL

LEVELS = 200  # of the 1000 noise levels, the cleanest, that it was trained for (arXiv 2307.01952, section 2.5)


class Refiner(StableDiffusionXL):
    """One CLIP, and an aesthetic score among the sizes. It goes on from a noised picture and draws none by itself, so
    an erasure learns from given ones. Conditions as of SDXL, time_ids (N, 5).
    """

    pipelines = ("StableDiffusionXLImg2ImgPipeline",)
    title = "the refiner of Stable Diffusion XL (UNet2DConditionModel, from given pictures)"
    exports = ("native", "diffusers", "kohya", "merged")
    draws = False

    @classmethod
    def matches(cls, pipe) -> bool:
        """Only what takes an aesthetic score: other models in this pipeline belong into the one for texts."""
        return super().matches(pipe) and bool(pipe.config.get("requires_aesthetics_score"))

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        found = super().encode_part(prompts, guidance)
        scores = [6.0 if prompt else 2.5 for prompt in prompts]  # the pipeline's own
        ids = found["time_ids"]
        return {**found, "time_ids": torch.cat([ids[:, :4], ids.new_tensor(scores)[:, None]], 1)}

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """Whole numbers in [0, 200)."""
        return (u * LEVELS).long()
