"""Latents as a sequence of 2x2 patches, as FLUX.1, Chroma and Qwen-Image take them."""

from __future__ import annotations

import torch

from .schedules import Flow


def pack(x: torch.Tensor) -> torch.Tensor:
    """Latents (B, C, H, W) as a sequence of 2x2 patches (B, H/2 W/2, 4C)."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The way back: (B, H/2 W/2, 4C) to (B, C, H, W)."""
    b, _, c = x.shape
    x = x.view(b, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c // 4, height, width)


def image_ids(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Positions (H/2 W/2, 3) of the patches: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).to(like)


class Packed(Flow):
    """A transformer over patches, whose configuration does not say how large its pictures are."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the latents before they are packed."""
        return self.model.config.in_channels // 4, self.pipe.default_sample_size, self.pipe.default_sample_size
