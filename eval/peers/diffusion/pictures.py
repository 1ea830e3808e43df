"""The concept's pictures as the model draws them, for methods that train on noised pictures."""

from __future__ import annotations

import torch

from semu_diffusion.diffusion.data import BATCH

from .work import Work


def clean_latents(work: Work) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures at the ends of the concept's trajectories (N, C, H, W), and their prompts' rows (N,)."""
    s, family, steps = work.states, work.family, work.budget.sampler_steps
    batches = [min(BATCH, work.budget.latents - k) for k in range(0, work.budget.latents, BATCH)]
    blocks = work.forget.split([n for n in batches for _ in range(steps)])  # as recorded: batch by batch, step by step
    index = torch.cat(blocks[steps - 1 :: steps])
    led = s.empty[index] + work.budget.guidance * (s.concept[index] - s.empty[index])
    return family.step(s.x[index].float(), led.float(), s.t[index], torch.full_like(s.t[index], -1)), s.prompt[index]


def noising_errors(work: Work, latents: torch.Tensor, rows: torch.Tensor, n: int) -> torch.Tensor:
    """The training loss of n freshly noised pictures, (n,)."""
    pick = torch.randint(len(latents), (n,), generator=work.generator)
    clean, t = latents[pick], work.family.times(torch.rand(n, generator=work.generator))
    noise = torch.randn(clean.shape, generator=work.generator)
    x, truth = (f(clean, noise, t).to(work.device) for f in (work.family.noised, work.family.truth))
    conditions = {key: value[rows[pick]] for key, value in work.values.items()}
    error = work.family.call(work.model, x, t.to(work.device), conditions) - truth
    return error.square().flatten(1).mean(1)
