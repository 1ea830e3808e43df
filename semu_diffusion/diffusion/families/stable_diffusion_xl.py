"""Stable Diffusion XL."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions, moved
from .stable_diffusion import UNet


class StableDiffusionXL(UNet):
    """Two CLIP text encoders; sizes and crop as further conditions.

    Conditions: text (N, tokens, both widths), pooled (N, width of the second encoder), time_ids (N, 6), and guidance
    (N, width) where the model takes it.
    """

    pipelines = ("StableDiffusionXLPipeline",)
    title = "Stable Diffusion XL (UNet2DConditionModel, two text encoders)"
    exports = ("native", "diffusers", "kohya", "merged", "single-file")

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, _, pooled, _ = self.pipe.encode_prompt(prompt=prompts, do_classifier_free_guidance=False)
        if self.pipe.config.force_zeros_for_empty_prompt:  # the unconditional input is zero, not the states of ""
            filled = torch.tensor([bool(p) for p in prompts], device=text.device)
            text, pooled = text * filled[:, None, None], pooled * filled[:, None]
        height, width = self.image_size
        ids = torch.tensor([height, width, 0, 0, height, width], dtype=text.dtype, device=text.device)
        own = moved(self.guidance_input(len(prompts), guidance), text.device)
        return {"text": text, "pooled": pooled, "time_ids": ids.repeat(len(prompts), 1), **own}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        added = {"text_embeds": conditions["pooled"], "time_ids": conditions["time_ids"]}
        own = {"timestep_cond": conditions.get("guidance"), "added_cond_kwargs": added}
        return model(x, t, conditions["text"], **own).sample
