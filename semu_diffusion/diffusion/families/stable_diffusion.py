"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from ..devices import compute_device
from .base import Conditions, Diffusion


class StableDiffusion(Diffusion):
    """One CLIP text encoder, UNet2DConditionModel, epsilon or v prediction. Conditions: text (N, tokens, width)."""

    pipelines = (StableDiffusionPipeline,)
    title = "Stable Diffusion 1.x/2.x (UNet2DConditionModel, epsilon or v prediction)"

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        ids = tokenizer(
            prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        return {"text": encoder(ids.to(compute_device(encoder)))[0]}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return model(x, t, conditions["text"]).sample
