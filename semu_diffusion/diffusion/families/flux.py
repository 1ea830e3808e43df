"""FLUX.1, dev and schnell, and FLUX.1 Kontext without a picture."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .packed import Packed, image_ids, pack, unpack


class Flux(Packed):
    """CLIP and T5; guidance is distilled into the model and one of its inputs, so there is one prediction a step.

    Conditions: text (N, tokens, width), pooled (N, width), and guidance (N,) where the model takes it.
    """

    pipelines = ("FluxPipeline", "FluxKontextPipeline")
    title = "FLUX.1 (FluxTransformer2DModel, flow matching, distilled guidance)"
    exports = ("native", "diffusers", "kohya", "merged")
    guided = False

    def asked(self, prompts: list[str], guidance: float) -> dict:
        height, width = self.image_size
        own = {"max_area": height * width} if "Kontext" in type(self.pipe).__name__ else {}
        return {**super().asked(prompts, guidance), "height": height, "width": width, **own}

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
