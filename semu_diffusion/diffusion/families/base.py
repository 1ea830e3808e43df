"""What the eraser needs of a pipeline."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import nn

from ...adapter.base_layers import compute_dtype
from ...adapter.ranks import ALONE, Ranks
from ..concepts import Pair, Vocabulary, forget_pairs, keep_prompts
from ..devices import Stage, compute_device
from ..pipeline import TEXT_ENCODERS, TOKENIZERS, denoiser
from .sampling import Sampler, own_sampler

Conditions = dict[str, torch.Tensor]  # what the prompts become for the model; row i of each tensor is prompt i


def select(conditions: Conditions, rows: torch.Tensor) -> Conditions:
    """The conditions of these prompts (rows,)."""
    return {key: value[rows] for key, value in conditions.items()}


def join(parts: list[Conditions]) -> Conditions:
    """Conditions one after the other; shorter texts are filled up with zeros, which their masks leave out."""
    return {key: torch.cat(filled([part[key] for part in parts])) for key in parts[0]}


def filled(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors (N, tokens, ...) with as many tokens as the longest has, or (N,)."""
    if values[0].ndim < 2:
        return values
    longest = max(v.shape[1] for v in values)
    return [nn.functional.pad(v, (0, 0) * (v.ndim - 2) + (0, longest - v.shape[1])) for v in values]


def moved(conditions: Conditions, device: torch.device | str) -> Conditions:
    """The conditions on a device."""
    return {key: value.to(device) for key, value in conditions.items()}


def cast(conditions: Conditions, dtype: torch.dtype) -> Conditions:
    """The conditions as a model of this dtype takes them, where an encoder has another; whole numbers stay."""
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in conditions.items()}


def beside(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Values (B,) as (B, 1, 1, ...), to be multiplied with latents x (B, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))


def repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    """Latents (B, ...) one after the other so many times."""
    return x.repeat(times, *[1] * (x.ndim - 1))


def empties_apart(prompts: list[str], own: Conditions, empty: Conditions) -> Conditions:
    """Conditions of prompts, of the empty ones among them those that the pipeline makes of a negative prompt."""
    rows = torch.tensor([bool(p) for p in prompts])
    found = {key: filled([own[key], empty[key]]) for key in own}
    return {key: torch.where(beside(rows.to(a.device), a), a, b) for key, (a, b) in found.items()}


def chat_around(tokenizer, **options) -> tuple[str, str]:
    """What a tokenizer's chat template puts before and after a user's prompt."""
    mark = "\x00"
    said = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False,
                                         add_generation_prompt=True, **options)  # fmt: skip
    return tuple(said.split(mark, 1))


def guided(own: torch.Tensor, empty: torch.Tensor, guidance: float) -> torch.Tensor:
    """Classifier-free guidance; at 1 and below the prompt's own prediction, as in diffusers' pipelines."""
    return empty + guidance * (own - empty) if guidance > 1 else own


class Family(ABC):
    """The interface between the eraser and one kind of pipeline. A new family is one file with a subclass.

    Subclasses name their pipelines and say how to encode prompts and how to call the model; x is always (B, C, H, W)
    as the decoder takes it, (B, C, frames, H, W) for video, t (B,) as the scheduler counts it. Noise schedules are in
    `Diffusion` and `Flow`.
    """

    pipelines: tuple[str, ...] = ()  # names of diffusers' classes, which older versions may lack
    autoencoder = "AutoencoderKL"  # the full one of its pictures, in diffusers
    title = ""
    exports: tuple[str, ...] = ("native", "diffusers", "merged")  # `--to` of `semu export`
    guidance_name = "guidance_scale"  # of the pipeline's argument
    empty: str | None = ""  # the prompt that stands for none; None where the model knows none
    guided = True  # classifier-free guidance: trajectories need the empty prompt's prediction at each step
    draws = True  # False where it only goes on from pictures that are given
    reads_text = True  # False where prompts are names of classes
    at_once = 64  # prompts that are encoded together
    ranks: Ranks = ALONE  # the processes that share out what this one draws and computes
    prediction_type: str

    def __init__(self, pipe):
        self.pipe = pipe
        self.model: nn.Module = denoiser(pipe)
        self.stage: Stage | None = None  # what moves parts to and from the device during an erasure

    @classmethod
    def matches(cls, pipe) -> bool:
        """Whether a pipeline is of this family."""
        return cls.has(type(pipe))

    @classmethod
    def has(cls, kind: type) -> bool:
        """Whether a class of pipelines is of this family; by name, so that none is imported for the question."""
        return any(base.__name__ in cls.pipelines for base in kind.__mro__)

    @abstractmethod
    def check(self) -> None:
        """ValueError where the pipeline's schedule or model does not fit."""

    # ---------------------------------------------------------------------------------------- sampling

    @cached_property
    def sampler(self) -> Sampler:
        """The pipeline's own steps and guidance."""
        return own_sampler(self.pipe, self.guidance_name)

    def asked(self, prompts: list[str], guidance: float) -> dict:
        """How the pipeline is called for pictures of prompts, by keyword."""
        return {"prompt": prompts, self.guidance_name: guidance}

    def pictures(self, drawn) -> torch.Tensor:
        """The pictures (N, 3, H, W) of what the pipeline returned."""
        return drawn.images

    def lead(self, own: torch.Tensor, empty: torch.Tensor, guidance: float) -> torch.Tensor:
        """The prediction that a step follows: the prompt's, led away from the empty one's as the pipeline does it."""
        return guided(own, empty, guidance)

    def set_times(self, scheduler, steps: int) -> None:
        """Sets a scheduler's times as the pipeline does."""
        scheduler.set_timesteps(steps)

    def own_times(self, steps: int) -> torch.Tensor:
        """The times of the pipeline's own steps, (steps,)."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        self.set_times(scheduler, steps)
        return scheduler.timesteps

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
        named = [getattr(self.pipe, name, None) for name in TOKENIZERS]
        named = [getattr(t, "tokenizer", t) for t in named if t is not None]  # a processor has one inside
        reach = {id(t): self.reach(t) for t in named}
        tokenizer = max(named, key=lambda t: reach[id(t)])
        length, found, (before, after) = reach[id(tokenizer)], [], self.around(tokenizer)
        first = len(tokenizer(before, add_special_tokens=False).input_ids) if before else 0
        for prompt in prompts:
            ids = tokenizer(f"{before}{self.converted(prompt, tokenizer)}{after}", truncation=False, verbose=False)
            ids = ids.input_ids
            read = tokenizer.decode(ids[first : length - 1], skip_special_tokens=True)
            found.append(read if len(ids) > length else None)
        return found

    def converted(self, prompt: str, tokenizer) -> str:
        """The prompt with the words of textual inversions as all the tokens that they stand for."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        return convert(prompt, tokenizer) if convert else prompt

    def around(self, tokenizer) -> tuple[str, str]:
        """What the pipeline puts before and after each prompt."""
        return "", ""

    def reach(self, tokenizer) -> int:
        """How many tokens of a prompt are read, the special ones among them."""
        called, encoded = (inspect.signature(f).parameters for f in (type(self.pipe).__call__, self.pipe.encode_prompt))
        most = called.get("max_sequence_length", encoded.get("max_sequence_length"))
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
        if not any(kind.__name__ == self.autoencoder for kind in type(vae).__mro__):
            raise ValueError(
                f"pictures need the model's full autoencoder, {self.autoencoder}; this is {type(vae).__name__}"
            )
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

    @property
    def members(self) -> dict[str, nn.Module]:
        """The models that carry the adapter, by what the names of their layers begin with; mostly one."""
        return {"": self.model}

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
