"""Lumina-Image 2."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions, empties_apart
from .schedules import Flow


class Lumina2(Flow):
    """Gemma behind a system prompt, which the empty prompt goes without; guidance whose length is the prompt's own.

    Conditions: text (N, tokens, width), mask (N, tokens).
    """

    pipelines = ("Lumina2Pipeline",)
    title = "Lumina-Image 2 (Lumina2Transformer2DModel, flow matching)"

    @property
    def tokens(self) -> int:
        return self.latent_shape[0]  # sic: the pipeline shifts by the second size of (B, C, H, W)

    def around(self, tokenizer) -> tuple[str, str]:
        return f"{self.pipe.system_prompt} <Prompt Start> ", ""

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, mask, none, blank = self.pipe.encode_prompt(prompts)
        return empties_apart(prompts, {"text": text, "mask": mask}, {"text": none, "mask": blank})

    def lead(self, own: torch.Tensor, empty: torch.Tensor, guidance: float) -> torch.Tensor:
        if guidance <= 1:
            return own
        led = super().lead(own, empty, guidance)
        return led * own.norm(dim=-1, keepdim=True) / led.norm(dim=-1, keepdim=True)

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return -model(
            hidden_states=x,
            timestep=1 - t / self.span,
            encoder_hidden_states=conditions["text"],
            encoder_attention_mask=conditions["mask"],
        ).sample
