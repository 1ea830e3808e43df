"""The two kinds of noise schedule: epsilon or v diffusion, and flow matching."""

from __future__ import annotations

import inspect
import math

import numpy as np
import torch

from .base import Family, beside


class Diffusion(Family):
    """Variance-preserving diffusion, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, epsilon or v prediction."""

    def __init__(self, pipe):
        super().__init__(pipe)
        self.prediction_type = pipe.scheduler.config.get("prediction_type")
        self.alphas = getattr(pipe.scheduler, "alphas_cumprod", None)  # (1000,)

    def check(self) -> None:
        scheduler = type(self.pipe.scheduler).__name__
        if "EDM" in scheduler:  # whose model wants its input, and its times, in another scale than any other scheduler
            raise ValueError(f"cannot erase from a model made for {scheduler}: its noise levels are not those of DDPM")
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"cannot erase from a model with prediction type {self.prediction_type!r}")
        if self.alphas is None:
            raise ValueError(f"cannot erase with {scheduler}: it has no alphas_cumprod; use DDIM")

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """Whole numbers in [0, 1000)."""
        return (u * len(self.alphas)).long()

    def step(self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """DDIM (arXiv 2010.02502, eq. 12)."""
        alphas = self.alphas.to(x.device)
        one = torch.ones((), device=x.device)
        now = beside(alphas[t.long()], x)
        then = beside(torch.where(s >= 0, alphas[s.long().clamp_min(0)], one), x)
        if self.prediction_type == "epsilon":
            eps = prediction
            clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
        else:
            eps = now.sqrt() * prediction + (1 - now).sqrt() * x
            clean = now.sqrt() * x - (1 - now).sqrt() * prediction
        return then.sqrt() * clean + (1 - then).sqrt() * eps

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        now = beside(self.alphas.to(clean.device)[t.long()], clean)
        return now.sqrt() * clean + (1 - now).sqrt() * noise

    def truth(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.prediction_type == "epsilon":
            return noise
        now = beside(self.alphas.to(clean.device)[t.long()], clean)
        return now.sqrt() * noise - (1 - now).sqrt() * clean


class Flow(Family):
    """Rectified flow (arXiv 2209.03003): x_t = (1 - sigma) x_0 + sigma noise, v = noise - x_0, t = 1000 sigma."""

    prediction_type = "flow"
    at_once = 8  # with hundreds of T5 tokens each
    spaced = True  # the pipeline gives its scheduler evenly spaced sigmas; others leave them to it

    def check(self) -> None:
        scheduler = self.pipe.scheduler
        if "FlowMatch" not in type(scheduler).__name__ and not scheduler.config.get("use_flow_sigmas"):
            kind = type(self.pipe).__name__
            raise ValueError(f"cannot erase with {type(scheduler).__name__}: {kind} needs flow matching")

    @property
    def span(self) -> int:
        """t at sigma = 1."""
        return self.pipe.scheduler.config.num_train_timesteps

    @property
    def tokens(self) -> int:
        """The length of a picture's sequence, by which some schedulers shift."""
        _, height, width = self.latent_shape
        return (height // 2) * (width // 2)

    def mu(self, steps: int) -> float:
        """The logarithm of the shift that the pipeline works out for its pictures' size."""
        config = self.pipe.scheduler.config
        least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return low + (high - low) * (self.tokens - least) / (most - least)

    @property
    def shift(self) -> float:
        """How far the sampler's sigmas are moved to the noisy side; some schedulers take more on larger pictures."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return config.get("shift") or config.get("flow_shift") or 1.0
        mu = self.mu(self.sampler.steps)
        return mu if config.get("time_shift_type") == "linear" else math.exp(mu)

    def set_times(self, scheduler, steps: int) -> None:
        takes, options = inspect.signature(scheduler.set_timesteps).parameters, {}
        if "mu" in takes and scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = self.mu(steps)
        if self.spaced and "sigmas" in takes:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **options)
        else:
            scheduler.set_timesteps(steps, **options)

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """Numbers in [0, 1000), shifted as the sampler's."""
        return self.span * self.shift * u / (1 + (self.shift - 1) * u)

    def sigma(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Noise levels (B, 1, 1, ...) of times (B,), for latents x (B, ...)."""
        return beside(t.clamp_min(0) / self.span, x)

    def step(self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Euler."""
        return x + (self.sigma(s, x) - self.sigma(t, x)) * prediction

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        sigma = self.sigma(t, clean)
        return (1 - sigma) * clean + sigma * noise

    def truth(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return noise - clean
