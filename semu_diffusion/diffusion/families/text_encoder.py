"""Erasing from the text encoder of a pipeline: the denoiser stays as it is and only passes the gradient on."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions, moved
from .stable_diffusion import StableDiffusion


class TextEncoder(StableDiffusion):
    """Stable Diffusion 1.x/2.x with its CLIP as the model that is adapted. Conditions: ids (N, tokens)."""

    title = "the text encoder of Stable Diffusion 1.x/2.x"

    def __init__(self, pipe):
        super().__init__(pipe)
        self.unet, self.model = self.model, pipe.text_encoder

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        tokenizer = self.pipe.tokenizer
        length = tokenizer.model_max_length
        prompts = self.pipe.maybe_convert_prompt(prompts, tokenizer)  # words of textual inversions
        ids = tokenizer(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        return {"ids": ids.to(self.device), **moved(self.guidance_input(len(prompts), guidance), self.device)}

    def text_states(self, prompts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(self.encode(prompts)["ids"])[0]

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        text = {"text": model(conditions["ids"])[0], **conditions}
        return super().call(self.unet, x, t, text)
