"""FLUX.2, dev and klein."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .schedules import Flow


class Flux2(Flow):
    """One language model as the text encoder. Guidance is an input of dev, classifier-free for klein's base, none of
    the distilled klein's.

    Latents are patches already, (B, 128, H/16, W/16). Conditions: text (N, tokens, width), guidance (N,) for dev.
    """

    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    title = "FLUX.2 dev and klein (Flux2Transformer2DModel, flow matching)"
    autoencoder = "AutoencoderKLFlux2"

    def __init__(self, pipe):
        super().__init__(pipe)
        self.guided = "Klein" in type(pipe).__name__ and not pipe.config.get("is_distilled")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.pipe.default_sample_size // 2
        return self.model.config.in_channels, size, size

    @property
    def image_size(self) -> tuple[int, int]:
        size = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        return size, size

    @property
    def tokens(self) -> int:
        _, height, width = self.latent_shape
        return height * width

    def mu(self, steps: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return compute_empirical_mu(self.tokens, steps)

    def encode_pictures(self, vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
        parts = (2 * part.to(vae.device, vae.dtype) - 1 for part in images.split(8))
        return torch.cat([self.pipe._encode_vae_image(part, None) for part in parts])

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        text, _ = self.pipe.encode_prompt(prompts)
        dev = self.model.config.guidance_embeds
        return {"text": text, **({"guidance": torch.full((len(text),), guidance, device=text.device)} if dev else {})}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        text = conditions["text"]
        out = model(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=t.to(x.dtype) / self.span,
            guidance=conditions.get("guidance"),
            encoder_hidden_states=text,
            txt_ids=self.pipe._prepare_text_ids(text).to(text.device),
            img_ids=self.pipe._prepare_latent_ids(x).to(text.device),
        ).sample
        return out.transpose(1, 2).reshape(x.shape)
