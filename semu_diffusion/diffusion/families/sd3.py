"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .schedules import Flow


class StableDiffusion3(Flow):
    """Two CLIP encoders and T5 (which may be left out), joint attention, flow matching.

    Conditions: text (N, tokens, width), pooled (N, both CLIP widths).
    """

    pipelines = ("StableDiffusion3Pipeline",)
    title = "Stable Diffusion 3/3.5 (SD3Transformer2DModel, flow matching)"
    spaced = False

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, _, pooled, _ = self.pipe.encode_prompt(
            prompt=prompts, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False
        )
        return {"text": text, "pooled": pooled}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return model(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=conditions["text"],
            pooled_projections=conditions["pooled"],
        ).sample
