"""Qwen-Image."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .latents import encode_standardised
from .packed import Packed, pack, unpack


class QwenImage(Packed):
    """Qwen2.5-VL as the text encoder, true classifier-free guidance whose length is that of the prompt's prediction.

    Conditions: text (N, tokens, width), mask (N, tokens).
    """

    pipelines = ("QwenImagePipeline",)
    title = "Qwen-Image (QwenImageTransformer2DModel, flow matching, true guidance)"
    guidance_name = "true_cfg_scale"
    autoencoder = "AutoencoderKLQwenImage"

    def asked(self, prompts: list[str], guidance: float) -> dict:
        against = {"negative_prompt": [self.empty] * len(prompts)} if guidance > 1 else {}
        return {**super().asked(prompts, guidance), **against}

    def encode_pictures(self, vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return encode_standardised(vae, images)[:, :, 0]

    def around(self, tokenizer) -> tuple[str, str]:
        return tuple(self.pipe.prompt_template_encode.split("{}"))

    def reach(self, tokenizer) -> int:
        return self.pipe.tokenizer_max_length + self.pipe.prompt_template_encode_start_idx

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, mask = self.pipe.encode_prompt(prompts)
        return {"text": text, "mask": text.new_ones(text.shape[:2], dtype=torch.long) if mask is None else mask}

    def lead(self, own: torch.Tensor, empty: torch.Tensor, guidance: float) -> torch.Tensor:
        if guidance <= 1:
            return own
        patches, led = pack(own), pack(super().lead(own, empty, guidance))
        return unpack(led * patches.norm(dim=-1, keepdim=True) / led.norm(dim=-1, keepdim=True), *own.shape[2:])

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        height, width = x.shape[2:]
        out = model(
            hidden_states=pack(x),
            timestep=t.to(x.dtype) / self.span,
            encoder_hidden_states=conditions["text"],
            encoder_hidden_states_mask=conditions["mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
        ).sample
        return unpack(out, height, width)
