"""Z-Image and Z-Image-Turbo."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions, chat_around
from .schedules import Flow

SIZE = 128  # of the latents that the pipeline draws where it is not told; its configuration names none


class ZImage(Flow):
    """Qwen3 as the text encoder, texts of their own lengths. Conditions: text (N, tokens, width), mask (N, tokens)."""

    pipelines = ("ZImagePipeline",)
    title = "Z-Image (ZImageTransformer2DModel, flow matching)"

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = getattr(self.pipe, "default_sample_size", SIZE)
        return self.model.config.in_channels, size, size

    def asked(self, prompts: list[str], guidance: float) -> dict:
        height, width = self.image_size
        return {**super().asked(list(prompts), guidance), "height": height, "width": width}

    def around(self, tokenizer) -> tuple[str, str]:
        return chat_around(tokenizer, enable_thinking=True)

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        texts, _ = self.pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        mask = [torch.ones(len(text), dtype=torch.bool, device=text.device) for text in texts]
        padded = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        return {"text": padded, "mask": nn.utils.rnn.pad_sequence(mask, batch_first=True)}

    def lead(self, own: torch.Tensor, empty: torch.Tensor, guidance: float) -> torch.Tensor:
        return own + guidance * (own - empty) if guidance > 0 else own

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        texts = [text[mask] for text, mask in zip(conditions["text"], conditions["mask"], strict=True)]
        out = model(list(x[:, :, None].unbind()), (self.span - t.to(x.dtype)) / self.span, texts, return_dict=False)[0]
        return -torch.stack(out)[:, :, 0]
