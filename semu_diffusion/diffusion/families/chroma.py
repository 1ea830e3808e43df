"""Chroma, a FLUX.1 without CLIP and without distilled guidance."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .packed import Packed, image_ids, pack, unpack


class Chroma(Packed):
    """T5 with an attention mask, classifier-free guidance. Conditions: text (N, tokens, width), mask (N, tokens)."""

    pipelines = ("ChromaPipeline",)
    title = "Chroma (ChromaTransformer2DModel, flow matching)"

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, _, mask, *_ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
        return {"text": text, "mask": mask}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        height, width = x.shape[2:]
        text, mask, patches = conditions["text"], conditions["mask"], pack(x)
        out = model(
            hidden_states=patches,
            timestep=t.to(x.dtype) / self.span,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3).to(text),
            img_ids=image_ids(height, width, text),
            attention_mask=torch.cat([mask, mask.new_ones(patches.shape[:2])], 1),
        ).sample
        return unpack(out, height, width)
