"""AuraFlow."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .schedules import Flow


class AuraFlow(Flow):
    """UMT5, joint attention. Conditions: text (N, tokens, width)."""

    pipelines = ("AuraFlowPipeline",)
    title = "AuraFlow (AuraFlowTransformer2DModel, flow matching)"
    spaced = False

    def asked(self, prompts: list[str], guidance: float) -> dict:
        height, width = self.image_size
        return {**super().asked(prompts, guidance), "height": height, "width": width}

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        return {"text": self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False)[0]}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return model(x, encoder_hidden_states=conditions["text"], timestep=t.to(x.dtype) / self.span).sample
