"""Pictures through the autoencoders that are no AutoencoderKL."""

from __future__ import annotations

import torch
from torch import nn


def encode_standardised(vae: nn.Module, images: torch.Tensor, frames: int = 1) -> torch.Tensor:
    """Latents (N, C, F, H, W) of a video autoencoder, each channel at its mean and deviation, of pictures (N, 3, H, W)
    in [0, 1] that stand still for so many frames."""
    clips = (2 * part[:, :, None].to(vae.device, vae.dtype) - 1 for part in images.split(8 if frames == 1 else 1))
    latents = torch.cat([vae.encode(clip.expand(-1, -1, frames, -1, -1)).latent_dist.mean for clip in clips])
    mean, std = (latents.new_tensor(v)[:, None, None, None] for v in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std
