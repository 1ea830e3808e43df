"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

import torch
from torch import nn

from ..devices import compute_device
from .base import Conditions, moved
from .schedules import Diffusion


class UNet(Diffusion):
    """What the Stable Diffusions have in common: consistency models of them take the guidance as an input."""

    def __init__(self, pipe):
        super().__init__(pipe)
        self.guided = self.guided and pipe.unet.config.time_cond_proj_dim is None

    def guidance_input(self, count: int, guidance: float) -> Conditions:
        """The guidance (count, width) for UNets that were distilled with it; {} for others."""
        width = self.pipe.unet.config.time_cond_proj_dim
        if width is None:
            return {}
        return {"guidance": self.pipe.get_guidance_scale_embedding(torch.full((count,), guidance - 1), width)}


class StableDiffusion(UNet):
    """One CLIP text encoder, UNet2DConditionModel, epsilon or v prediction.

    Conditions: text (N, tokens, width), and guidance (N, width) where the model takes it.
    """

    pipelines = ("StableDiffusionPipeline",)
    title = "Stable Diffusion 1.x/2.x (UNet2DConditionModel, epsilon or v prediction)"
    exports = ("native", "diffusers", "kohya", "merged", "single-file")

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        device = compute_device(self.pipe.text_encoder)
        text, _ = self.pipe.encode_prompt(prompts, device, 1, do_classifier_free_guidance=False)
        return {"text": text, **moved(self.guidance_input(len(prompts), guidance), text.device)}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return model(x, t, conditions["text"], timestep_cond=conditions.get("guidance")).sample
