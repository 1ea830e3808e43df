"""HiDream-I1."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .schedules import Flow


class HiDream(Flow):
    """Two CLIPs, T5 and all layers of a Llama; experts in its feed-forward layers.

    Conditions: text (N, tokens, width) of T5, llama (N, layers, tokens, width), pooled (N, both CLIP widths).
    """

    pipelines = ("HiDreamImagePipeline",)
    title = "HiDream-I1 (HiDreamImageTransformer2DModel, flow matching, experts)"
    spaced = False

    def check(self) -> None:
        super().check()
        if self.pipe.text_encoder_4 is None or self.pipe.tokenizer_4 is None:  # which its repository leaves out
            raise ValueError(
                "HiDream needs a Llama as text_encoder_4 and tokenizer_4; load the pipeline with them for erase()"
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.model.config.in_channels, self.pipe.default_sample_size, self.pipe.default_sample_size

    @property
    def tokens(self) -> int:
        return self.model.max_seq

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, _, llama, _, pooled, _ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
        return {"text": text, "llama": llama.transpose(0, 1), "pooled": pooled}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        if torch.is_grad_enabled():
            differentiable(self.model)
        return -model(
            hidden_states=x,
            timesteps=t,
            encoder_hidden_states_t5=conditions["text"],
            encoder_hidden_states_llama3=conditions["llama"].transpose(0, 1),
            pooled_embeds=conditions["pooled"],
        ).sample


def differentiable(model: nn.Module) -> None:
    """Experts compute the same in training mode, and pass gradients on; in the other one they do not."""
    for module in model.modules():
        if type(module).__name__ == "MOEFeedForwardSwiGLU":
            module.training = True
