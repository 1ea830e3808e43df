"""How a pipeline draws by itself: its steps, its guidance, and the noise levels at which it asks its model."""

from __future__ import annotations

import copy
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..pipeline import base_name, denoiser

# Steps and guidance that the cards of distilled models give, by what their names say; in a name the first one counts.
DISTILLED = {
    "z-image-turbo": (9, 0.0), "hidream-i1-fast": (16, 0.0), "hidream-i1-dev": (28, 0.0), "schnell": (4, 0.0),
    "turbo": (4, 0.0), "lightning": (4, 0.0), "dmd2": (4, 0.0), "lcm": (4, 1.0),
}  # fmt: skip
CONSISTENCY = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler")
ERASING = 10  # most steps of a trajectory that is learned from; they are shifted, so that all noise levels are met


@dataclass(frozen=True)
class Sampler:
    """Steps and guidance of a pipeline; few: its model answers only at the few noise levels of its own scheduler."""

    steps: int
    guidance: float
    few: bool = False

    @property
    def erasing(self) -> int:
        """Steps of the trajectories that an erasure learns from."""
        return self.steps if self.few else min(self.steps, ERASING)


def own_sampler(pipe, guidance_name: str = "guidance_scale") -> Sampler:
    """What a pipeline does where its caller says nothing; for distilled models what they were distilled for.

    Those are known by what pipeline, model and scheduler say of themselves, else by their names, as nothing in the
    files of SDXL-Turbo or Z-Image-Turbo tells them from their teachers.
    """
    given = inspect.signature(type(pipe).__call__).parameters
    default = lambda name, other: value if (value := getattr(given.get(name), "default", None)) else other  # noqa: E731
    steps, guidance = default("num_inference_steps", 50), default(guidance_name, 1.0)
    if not isinstance(guidance, (int, float)):
        guidance = 1.0
    scheduler, model = type(getattr(pipe, "scheduler", None)).__name__, denoiser(pipe).config
    said = next((value for word, value in DISTILLED.items() if word in short_name(pipe)), None)
    if model.get("time_cond_proj_dim"):  # guidance is an input of a consistency model
        return Sampler(min(steps, 4), guidance, few=True)
    if said:
        return Sampler(*said, few=True)
    if pipe.config.get("is_distilled") or scheduler in CONSISTENCY:
        return Sampler(4, 1.0, few=True)
    if trailing(pipe, scheduler) or is_schnell(pipe):
        return Sampler(4, 0.0, few=True)
    return Sampler(steps, float(guidance))


def short_name(pipe) -> str:
    """The last name of where a pipeline is from, in small letters; of the Hub's cache the repository's."""
    cached = re.search(r"models--([^/\\]+)", base_name(pipe))
    return (cached[1] if cached else Path(base_name(pipe)).name).lower()


def trailing(pipe, scheduler: str) -> bool:
    """Whether a UNet is sampled as SD-Turbo, SDXL-Turbo and Lightning are, and no undistilled model by default."""
    config = getattr(pipe.scheduler, "config", {})
    euler = scheduler in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
    return euler and config.get("timestep_spacing") == "trailing" and config.get("prediction_type") == "epsilon"


def is_schnell(pipe) -> bool:
    """Whether this is a FLUX.1 that was distilled to few steps: without guidance, and its times not shifted."""
    named = type(denoiser(pipe)).__name__ == "FluxTransformer2DModel"
    free = named and not denoiser(pipe).config.get("guidance_embeds")
    return free and not pipe.scheduler.config.get("use_dynamic_shifting")


# ------------------------------------------------------------------------------------------------ paths


class Spread:
    """Deterministic steps between times that are shifted per latent, at random, so that the whole schedule is met.

    Args:
        shift: (B,) in [0, 1), of a step.
    """

    def __init__(self, family, shift: torch.Tensor, steps: int):
        self.family = family
        self.times = [family.times((k + shift) / steps).to(family.device) for k in reversed(range(steps))]

    def first(self, noise: torch.Tensor) -> torch.Tensor:
        """Where a trajectory begins."""
        return noise

    def seen(self, k: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model is given at step k: latents and times (B,)."""
        return x, self.times[k]

    def step(self, k: int, x: torch.Tensor, led: torch.Tensor) -> torch.Tensor:
        """Where step k leads, by the prediction."""
        t = self.times[k]
        s = self.times[k + 1] if k + 1 < len(self.times) else torch.full_like(t, -1)
        return self.family.step(x.float(), led.float(), t, s).to(x.dtype)


class Own:
    """The pipeline's own scheduler: a model that was distilled to a few noise levels is asked nowhere else.

    Args:
        generators: One per latent, or one for all, for schedulers that add noise at each step.
    """

    def __init__(self, family, steps: int, generators: list[torch.Generator] | torch.Generator):
        self.scheduler, self.count = copy.deepcopy(family.pipe.scheduler), 1
        family.set_times(self.scheduler, steps)
        self.times = list(self.scheduler.timesteps.to(family.device))
        takes = "generator" in inspect.signature(self.scheduler.step).parameters
        self.options = {"generator": generators} if takes else {}

    def first(self, noise: torch.Tensor) -> torch.Tensor:
        """Noise as large as the scheduler has it."""
        return noise * float(self.scheduler.init_noise_sigma) if hasattr(self.scheduler, "init_noise_sigma") else noise

    def seen(self, k: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Spread.seen`; schedulers that count in noise levels divide what they keep."""
        scaled = getattr(self.scheduler, "scale_model_input", lambda x, t: x)
        return scaled(x, self.times[k]), self.times[k].expand(len(x))

    def step(self, k: int, x: torch.Tensor, led: torch.Tensor) -> torch.Tensor:
        """As `Spread.step`."""
        return self.scheduler.step(led, self.times[k], x, **self.options).prev_sample.to(x.dtype)
