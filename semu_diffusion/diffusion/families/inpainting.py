"""Inpainting models of Stable Diffusion and SDXL, which here draw the whole picture."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions, Family
from .stable_diffusion import StableDiffusion
from .stable_diffusion_xl import StableDiffusionXL


class Masked(Family):
    """A UNet of 9 channels: the latents, a mask that is 1 everywhere, and the latents of the masked picture, grey.

    Conditions as of the family that it was made from, and masked (N, 5, H, W) where the UNet takes it.
    """

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.pipe.vae.config.latent_channels, *super().latent_shape[1:]

    def asked(self, prompts: list[str], guidance: float) -> dict:
        grey = torch.zeros(len(prompts), 3, *self.image_size)
        own = {"image": grey, "mask_image": torch.ones_like(grey[:, :1]), "strength": 1.0}
        if self.masks:
            own["masked_image_latents"] = self.masked(len(prompts))[:, 1:]
        return {**super().asked(prompts, guidance), **own}

    @property
    def masks(self) -> bool:
        """Whether the UNet was made to see the mask."""
        return self.model.config.in_channels > self.latent_shape[0]

    def masked(self, count: int) -> torch.Tensor:
        """Mask and masked latents (count, 5, H, W) of pictures of which nothing is given."""
        grey = self.encode_images(torch.full((1, 3, *self.image_size), 0.5)).to(self.device, self.dtype)
        return torch.cat([torch.ones_like(grey[:, :1]), grey], 1).expand(count, -1, -1, -1)

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        found = super().encode_part(prompts, guidance)
        return {**found, "masked": self.masked(len(prompts))} if self.masks else found

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        given = torch.cat([x, conditions["masked"]], 1) if "masked" in conditions else x
        return super().call(model, given, t, conditions)


class Inpainting(Masked, StableDiffusion):
    """Inpainting with one CLIP."""

    pipelines = ("StableDiffusionInpaintPipeline",)
    title = "inpainting models of Stable Diffusion 1.x/2.x (UNet2DConditionModel, 4 or 9 channels)"
    exports = ("native", "diffusers", "kohya", "merged")


class InpaintingXL(Masked, StableDiffusionXL):
    """Inpainting with two."""

    pipelines = ("StableDiffusionXLInpaintPipeline",)
    title = "inpainting models of SDXL (UNet2DConditionModel, 4 or 9 channels)"
    exports = ("native", "diffusers", "kohya", "merged")
