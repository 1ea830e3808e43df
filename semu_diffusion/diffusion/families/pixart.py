"""PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .schedules import Diffusion


class PixArt(Diffusion):
    """T5 with an attention mask, PixArtTransformer2DModel, epsilon prediction, often with learned variances.

    Conditions: text (N, tokens, width), mask (N, tokens).
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    title = "PixArt-alpha/Sigma (PixArtTransformer2DModel, epsilon prediction)"
    exports = ("native", "kohya", "merged")
    at_once = 8

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, mask, _, _ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False, clean_caption=True)
        return {"text": text, "mask": mask}

    def sizes(self, x: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """The 1024-pixel alpha models also take the picture's size (B, 2) and height / width (B, 1)."""
        if not self.model.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = self.image_size
        size = torch.tensor([[height, width]]).repeat(len(x), 1).to(x)
        return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        out = model(
            x,
            encoder_hidden_states=conditions["text"],
            encoder_attention_mask=conditions["mask"],
            timestep=t,
            added_cond_kwargs=self.sizes(x),
        ).sample
        return out[:, : x.shape[1]]  # the other half is the learned variance
