"""Sana."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from .base import Conditions, empties_apart
from .schedules import Flow


class Sana(Flow):
    """Gemma behind an instruction, which the empty prompt goes without; linear attention, an autoencoder of factor 32.

    Conditions: text (N, tokens, width), mask (N, tokens).
    """

    pipelines = ("SanaPipeline",)
    title = "Sana (SanaTransformer2DModel, flow matching)"
    autoencoder = "AutoencoderDC"
    spaced = False

    def asked(self, prompts: list[str], guidance: float) -> dict:
        height, width = self.image_size
        size = {"height": height, "width": width, "use_resolution_binning": False}
        return {**super().asked(prompts, guidance), **size}

    @property
    def instruction(self) -> list[str]:
        """What the pipeline says before each prompt."""
        return inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default

    def around(self, tokenizer) -> tuple[str, str]:
        return "\n".join(self.instruction), ""

    def reach(self, tokenizer) -> int:
        return super().reach(tokenizer) + len(tokenizer("\n".join(self.instruction)).input_ids) - 2

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, mask, none, blank = self.pipe.encode_prompt(prompts, complex_human_instruction=self.instruction)
        return empties_apart(prompts, {"text": text, "mask": mask}, {"text": none, "mask": blank})

    def encode_pictures(self, vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
        parts = (vae.encode(2 * part.to(vae.device, vae.dtype) - 1).latent for part in images.split(8))
        return torch.cat(list(parts)) * vae.config.scaling_factor

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        out = model(
            x,
            encoder_hidden_states=conditions["text"],
            encoder_attention_mask=conditions["mask"],
            timestep=t * self.model.config.timestep_scale,
        ).sample
        return out[:, : x.shape[1]]  # the other half is a learned variance
