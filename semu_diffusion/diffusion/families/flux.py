"""FLUX.1, dev and schnell."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .schedules import Flow


def pack(x: torch.Tensor) -> torch.Tensor:
    """Latents (B, C, H, W) as a sequence of 2x2 patches (B, H/2 W/2, 4C)."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The way back: (B, H/2 W/2, 4C) to (B, C, H, W)."""
    b, _, c = x.shape
    x = x.view(b, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c // 4, height, width)


def image_ids(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Positions (H/2 W/2, 3) of the patches: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).to(like)


class Flux(Flow):
    """CLIP and T5; guidance is distilled into the model and one of its inputs, so there is one prediction a step.

    Conditions: text (N, tokens, width), pooled (N, width), and guidance (N,) where the model takes it.
    """

    pipelines = ("FluxPipeline",)
    title = "FLUX.1 (FluxTransformer2DModel, flow matching, distilled guidance)"
    guided = False

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the latents before they are packed; the transformer's config has no size."""
        return self.model.config.in_channels // 4, self.pipe.default_sample_size, self.pipe.default_sample_size

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, pooled, _ = self.pipe.encode_prompt(prompt=prompts, prompt_2=None)
        conditions = {"text": text, "pooled": pooled}
        if self.model.config.guidance_embeds:
            conditions["guidance"] = torch.full((len(prompts),), guidance, device=text.device)
        return conditions

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        height, width = x.shape[2:]
        text = conditions["text"]
        out = model(
            hidden_states=pack(x),
            timestep=t.to(x.dtype) / self.span,
            guidance=conditions.get("guidance"),
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3).to(text),
            img_ids=image_ids(height, width, text),
        ).sample
        return unpack(out, height, width)
