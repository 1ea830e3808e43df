"""What the eraser needs of a pipeline, and the two kinds of noise schedule: epsilon/v diffusion and flow matching."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from contextlib import nullcontext

import torch
from diffusers import AutoencoderKL
from torch import nn

from ...adapter.base_layers import compute_dtype
from ..concepts import Pair, Vocabulary, forget_pairs, keep_prompts
from ..devices import Stage, compute_device
from ..pipeline import TEXT_ENCODERS, denoiser

Conditions = dict[str, torch.Tensor]  # what the prompts become for the model; row i of each tensor is prompt i


def select(conditions: Conditions, rows: torch.Tensor) -> Conditions:
    """The conditions of these prompts (rows,)."""
    return {key: value[rows] for key, value in conditions.items()}


def join(parts: list[Conditions]) -> Conditions:
    """Conditions one after the other."""
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def moved(conditions: Conditions, device: torch.device | str) -> Conditions:
    """The conditions on a device."""
    return {key: value.to(device) for key, value in conditions.items()}


def cast(conditions: Conditions, dtype: torch.dtype) -> Conditions:
    """The conditions as a model of this dtype takes them, where an encoder has another; whole numbers stay."""
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in conditions.items()}


class Family(ABC):
    """The interface between the eraser and one kind of pipeline. A new family is one file with a subclass.

    Subclasses name their pipelines and say how to encode prompts and how to call the model; x is always (B, C, H, W)
    as the decoder takes it, t (B,) as the scheduler counts it. Noise schedules are in `Diffusion` and `Flow`.
    """

    pipelines: tuple[type, ...] = ()
    title = ""
    empty: str | None = ""  # the prompt that stands for none; None where the model knows none
    guided = True  # classifier-free guidance: trajectories need the empty prompt's prediction at each step
    reads_text = True  # False where prompts are names of classes
    at_once = 64  # prompts that are encoded together
    prediction_type: str

    def __init__(self, pipe):
        self.pipe = pipe
        self.model: nn.Module = denoiser(pipe)
        self.stage: Stage | None = None  # what moves parts to and from the device during an erasure

    @classmethod
    def matches(cls, pipe) -> bool:
        """Whether a pipeline is of this family."""
        return isinstance(pipe, cls.pipelines)

    # ----------------------------------------------------------------------------------------- prompts

    def pairs(self, concepts: list[str], anchor: str | None, vocabulary: Vocabulary, seed: int) -> list[Pair]:
        """Prompts of the concepts, each with the one that it shall be answered with.

        Raises:
            ValueError: as `forget_pairs`.
        """
        pairs = []
        for concept in concepts:  # no concept is drawn instead of, or with, another one that goes as well
            words = vocabulary.without([other for other in concepts if other != concept])
            pairs += forget_pairs(concept, anchor, words, seed)
        return pairs

    def keep(self, concepts: list[str], vocabulary: Vocabulary, count: int, seed: int) -> list[str]:
        """`count` prompts of what must stay."""
        return keep_prompts(concepts, vocabulary, count, seed)

    @torch.no_grad()
    def encode(self, prompts: list[str], guidance: float = 3.5) -> Conditions:
        """The conditions of N prompts, each tensor (N, ...).

        Args:
            guidance: For models that take it as an input; others leave it out.
        """
        encoders = [getattr(self.pipe, name, None) for name in TEXT_ENCODERS]
        parts = [prompts[k : k + self.at_once] for k in range(0, len(prompts), self.at_once)]
        with self.stage.awake(*encoders) if self.stage else nullcontext():
            found = join([self.encode_part(part, guidance) for part in parts])
        return cast(found, self.dtype)

    @torch.no_grad()
    def text_states(self, prompts: list[str]) -> torch.Tensor:
        """The text encoder's states (N, tokens, width) of N prompts."""
        return self.encode(prompts)["text"]

    def read(self, prompts: list[str]) -> list[str | None]:
        """What is read of those prompts that are longer than the model takes; None for all others."""
        named = [getattr(self.pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
        reach = {id(t): self.reach(t) for t in named if t is not None}
        tokenizer = max((t for t in named if t is not None), key=lambda t: reach[id(t)])
        length, found = reach[id(tokenizer)], []
        for prompt in prompts:
            ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
            found.append(tokenizer.decode(ids[: length - 1], skip_special_tokens=True) if len(ids) > length else None)
        return found

    def reach(self, tokenizer) -> int:
        """How many tokens of a prompt are read, the special ones among them."""
        most = inspect.signature(self.pipe.encode_prompt).parameters.get("max_sequence_length")
        clip = "CLIP" in type(tokenizer).__name__
        return tokenizer.model_max_length if clip or most is None else min(tokenizer.model_max_length, most.default)

    @abstractmethod
    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        """`encode` of at most `at_once` prompts."""

    # ------------------------------------------------------------------------------------------ latents

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return compute_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, and so what it is given."""
        return compute_dtype(self.model)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the latents."""
        size = self.model.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.model.config.in_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures, in pixels."""
        _, height, width = self.latent_shape
        return height * self.pipe.vae_scale_factor, width * self.pipe.vae_scale_factor

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, H, W) of images (N, 3, H, W) in [0, 1]."""
        vae = self.pipe.vae
        if not hasattr(vae.config, "scaling_factor") or not isinstance(vae, AutoencoderKL):
            raise ValueError(f"pictures need the model's full autoencoder, AutoencoderKL; this is {type(vae).__name__}")
        with self.stage.awake(vae) if self.stage else nullcontext():
            return self.encode_pictures(vae, images)

    def encode_pictures(self, vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """`encode_images` with the autoencoder on its device."""
        parts = (vae.encode(2 * part.to(vae.device, vae.dtype) - 1).latent_dist.mean for part in images.split(8))
        return (torch.cat(list(parts)) - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor

    # ------------------------------------------------------------------------------------------- model

    @abstractmethod
    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """The prediction (B, C, H, W) for latents (B, C, H, W) at times (B,).

        Args:
            model: The denoiser, possibly wrapped by accelerate; its configuration is that of `self.model`.
        """

    def predict(self, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """`call` of the pipeline's own denoiser."""
        return self.call(self.model, x, t, conditions)

    # ---------------------------------------------------------------------------------------- schedule

    @abstractmethod
    def times(self, u: torch.Tensor) -> torch.Tensor:
        """The model's times for shares u (B,) of the way from the clean picture (0) to noise (1)."""

    @abstractmethod
    def step(self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """One deterministic sampler step from times t to s (B,); s = -1 is the clean picture."""

    @abstractmethod
    def noised(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t of clean latents (B, C, H, W)."""

    @abstractmethod
    def truth(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the model was trained to predict at that x_t."""


class Diffusion(Family):
    """Variance-preserving diffusion, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, epsilon or v prediction."""

    def __init__(self, pipe):
        super().__init__(pipe)
        self.prediction_type = pipe.scheduler.config.get("prediction_type")
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"cannot erase from a model with prediction type {self.prediction_type!r}")
        if not hasattr(pipe.scheduler, "alphas_cumprod"):
            raise ValueError(f"cannot erase with {type(pipe.scheduler).__name__}: it has no alphas_cumprod; use DDIM")
        self.alphas = pipe.scheduler.alphas_cumprod  # (1000,)

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """Whole numbers in [0, 1000)."""
        return (u * len(self.alphas)).long()

    def step(self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """DDIM (arXiv 2010.02502, eq. 12)."""
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
        now = self.alphas.to(clean.device)[t][:, None, None, None]
        return now.sqrt() * clean + (1 - now).sqrt() * noise

    def truth(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.prediction_type == "epsilon":
            return noise
        now = self.alphas.to(clean.device)[t][:, None, None, None]
        return now.sqrt() * noise - (1 - now).sqrt() * clean


class Flow(Family):
    """Rectified flow (arXiv 2209.03003): x_t = (1 - sigma) x_0 + sigma noise, v = noise - x_0, t = 1000 sigma."""

    prediction_type = "flow"
    at_once = 8  # with hundreds of T5 tokens each

    def __init__(self, pipe):
        super().__init__(pipe)
        scheduler = pipe.scheduler
        if "FlowMatch" not in type(scheduler).__name__:
            raise ValueError(f"cannot erase with {type(scheduler).__name__}: {type(pipe).__name__} needs flow matching")
        self.span = scheduler.config.num_train_timesteps  # t at sigma = 1

    @property
    def shift(self) -> float:
        """How far the sampler's sigmas are moved to the noisy side; some schedulers take more on larger pictures."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return config.get("shift", 1.0)
        _, height, width = self.latent_shape
        tokens, least, most = (height // 2) * (width // 2), config.base_image_seq_len, config.max_image_seq_len
        mu = config.base_shift + (config.max_shift - config.base_shift) * (tokens - least) / (most - least)
        return mu if config.get("time_shift_type") == "linear" else math.exp(mu)

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """Numbers in [0, 1000), shifted as the sampler's."""
        return self.span * self.shift * u / (1 + (self.shift - 1) * u)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """Noise levels (B, 1, 1, 1) of times (B,)."""
        return (t.clamp_min(0) / self.span)[:, None, None, None]

    def step(self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Euler."""
        return x + (self.sigma(s) - self.sigma(t)) * prediction

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        sigma = self.sigma(t)
        return (1 - sigma) * clean + sigma * noise

    def truth(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return noise - clean
