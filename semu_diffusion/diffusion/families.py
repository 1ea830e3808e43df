"""What the eraser needs of a pipeline: encode prompts, shapes, noise schedule, and one prediction."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x: one CLIP text encoder, UNet2DConditionModel, epsilon or v prediction."""

    pipelines = (StableDiffusionPipeline,)
    title = "Stable Diffusion 1.x/2.x (UNet2DConditionModel, epsilon or v prediction)"

    def __init__(self, pipe: StableDiffusionPipeline):
        self.pipe = pipe
        self.model = pipe.unet
        self.prediction_type = pipe.scheduler.config.prediction_type
        self.alphas = pipe.scheduler.alphas_cumprod  # (1000,)
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"cannot erase from a model with prediction type {self.prediction_type!r}")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the latents."""
        size = self.model.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.model.config.in_channels, height, width

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Text-encoder states (N, tokens, width)."""
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        ids = tokenizer(
            prompts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        return torch.cat([encoder(part.to(encoder.device))[0] for part in ids.split(64)])

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, H, W) of images (N, 3, H, W) in [0, 1]."""
        vae = self.pipe.vae
        parts = (vae.encode(2 * part.to(vae.device, vae.dtype) - 1).latent_dist.mean for part in images.split(8))
        return torch.cat(list(parts)) * vae.config.scaling_factor

    def predict(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The model's own prediction for latents (B, C, H, W) at times (B,)."""
        return self.model(x, t, context).sample

    def step(self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Deterministic DDIM (arXiv 2010.02502, eq. 12) from times t to s (B,); s = -1 is the clean picture."""
        alphas = self.alphas.to(x.device)
        one = torch.ones((), device=x.device)
        now = alphas[t][:, None, None, None]
        then = torch.where(s >= 0, alphas[s.clamp_min(0)], one)[:, None, None, None]
        if self.prediction_type == "epsilon":
            eps = prediction
            clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
        else:
            eps = now.sqrt() * prediction + (1 - now).sqrt() * x
            clean = now.sqrt() * x - (1 - now).sqrt() * prediction
        return then.sqrt() * clean + (1 - then).sqrt() * eps

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t of clean latents."""
        now = self.alphas.to(clean.device)[t][:, None, None, None]
        return now.sqrt() * clean + (1 - now).sqrt() * noise

    def truth(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the model was trained to predict at that x_t."""
        if self.prediction_type == "epsilon":
            return noise
        now = self.alphas.to(clean.device)[t][:, None, None, None]
        return now.sqrt() * noise - (1 - now).sqrt() * clean


FAMILIES = (StableDiffusion,)


def family_of(pipe) -> StableDiffusion:
    """The family of a pipeline. ValueError that lists the known ones."""
    for family in FAMILIES:
        if isinstance(pipe, family.pipelines):
            return family(pipe)
    known = "; ".join(f.title for f in FAMILIES)
    raise ValueError(f"{type(pipe).__name__} is not a family that can be erased from; known: {known}")
