"""Image-guided attacks: the model goes on from a noised or inverted picture of the concept."""

from __future__ import annotations

import torch

from ..diffusion.families import guided
from .target import Target


def times(target: Target, strength: float, steps: int, n: int) -> list[torch.Tensor]:
    """Falling times (n,) from `strength` of the schedule to near the clean picture."""
    u = strength * torch.arange(steps, 0, -1) / steps
    return [target.family.times(value.clamp_max(0.999).repeat(n)).to(target.device) for value in u]


@torch.no_grad()
def invert_ddim(target: Target, latents: torch.Tensor, strength: float, steps: int) -> torch.Tensor:
    """Latents (N, C, H, W) led up to `strength` along the model's own path under the empty prompt (DDIM inversion)."""
    x, upward = latents, times(target, strength, steps, len(latents))[::-1]
    upward = [torch.zeros_like(upward[0]), *upward]  # the picture itself is taken for the state at the first time
    empty = {"text": target.encode(target.ids([""])).expand(len(x), -1, -1)}
    for t, s in zip(upward, upward[1:]):
        x = target.family.step(x, target.family.predict(x, t, empty), t, s)
    return x


@torch.no_grad()
def redraw(
    target: Target, latents: torch.Tensor, prompts: list[str], strength: float, steps: int = 15, guidance: float = 3.0,
    inverted: bool = False, seed: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Images (N, 3, H, W): pictures' latents noised to `strength` of the schedule, then sampled with their prompts.

    Args:
        strength: In (0, 1]; near 0 the picture is handed back.
        inverted: Start from the DDIM inversion of the picture instead of random noise on it.

    Raises:
        ValueError: strength outside its range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"the strength of an image-guided attack must be in (0, 1], got {strength}")
    family, latents = target.family, latents.to(target.device)
    downward, n = times(target, strength, steps, len(latents)), len(latents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    x = invert_ddim(target, latents, strength, steps) if inverted else family.noised(latents, noise, downward[0])
    text = torch.cat([target.encode(target.ids(prompts)), target.encode(target.ids([""])).expand(n, -1, -1)])
    for t, s in zip(downward, [*downward[1:], torch.full_like(downward[0], -1)]):
        own, empty = family.predict(x.repeat(2, 1, 1, 1), t.repeat(2), {"text": text}).chunk(2)
        x = family.step(x, guided(own, empty, guidance), t, s)
    return target.decode(x)
