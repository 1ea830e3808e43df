"""Class-conditional DDPM: the prompts are names or numbers of classes."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property

import torch
from diffusers import UNet2DModel
from torch import nn

from ..concepts import COMMON, Pair, Vocabulary, vocabulary_of
from ..pipeline import base_name, model_path
from .base import Conditions, guided, join, select
from .sampling import Sampler
from .schedules import Diffusion


class ClassConditional(Diffusion):
    """UNet2DModel with a class embedding, in pixels. Conditions: label (N,).

    Classes go by number, or by name where the model's folder has a vocabulary.json with as many subjects as classes;
    with one subject fewer, the last class stands for none and is the empty prompt, and classifier-free guidance
    (arXiv 2207.12598) leads away from it.
    """

    pipelines = ("DDPMPipeline", "DDIMPipeline")
    reads_text = False
    title = "class-conditional DDPM/DDIM (UNet2DModel with class labels)"
    exports = ("native", "merged")
    guided = False  # unless there is a class that stands for none
    empty = None

    def __init__(self, pipe):
        super().__init__(pipe)
        embedding = getattr(self.model, "class_embedding", None)
        if not isinstance(embedding, nn.Embedding):
            raise ValueError("this UNet2DModel has no class embedding, so there is no class that it could forget")
        self.count = embedding.num_embeddings
        words = vocabulary_of(model_path(base_name(pipe)))
        fits = words is not COMMON and len(words.subjects) in (self.count, self.count - 1)
        self.names = list(words.subjects) if fits else [str(k) for k in range(self.count)]
        if len(self.names) < self.count:
            self.empty, self.guided = "", True

    @cached_property
    def sampler(self) -> Sampler:
        """Of `draw`."""
        return Sampler(50, 3.0 if self.guided else 1.0)

    @classmethod
    def matches(cls, pipe) -> bool:
        """Any pipeline around a UNet2DModel: diffusers' own two do not pass on labels, so there are custom ones."""
        return super().matches(pipe) or isinstance(getattr(pipe, "unet", None), UNet2DModel)

    # ----------------------------------------------------------------------------------------- prompts

    def label(self, prompt: str) -> int:
        """The number of a class. ValueError where there is no such class."""
        if prompt == "" and self.empty == "":
            return self.count - 1
        if prompt in self.names:
            return self.names.index(prompt)
        if prompt.isdigit() and int(prompt) < len(self.names):
            return int(prompt)
        known = f"0 to {len(self.names) - 1}" + (f", or {', '.join(self.names)}" if self.names[0] != "0" else "")
        raise ValueError(f"the model has no class {prompt!r}; known: {known}")

    def pairs(self, concepts: list[str], anchor: str | None, vocabulary: Vocabulary, seed: int) -> list[Pair]:
        """Each class with its anchor: "next" for the class after it, "random" for all others in turn, or a class.

        No anchor is the empty prompt where the model has one, else "next".

        Raises:
            ValueError: no such class, a class that is its own anchor, or none left to draw instead.
        """
        pairs, gone = [], [self.label(c) for c in concepts]
        for k in gone:
            others = [(k + i) % len(self.names) for i in range(1, len(self.names))]
            left = [other for other in others if other not in gone]
            if not anchor and self.empty is not None:
                instead = [self.empty]
            elif not left:
                raise ValueError("no class is left to draw instead")
            elif not anchor or anchor == "next":
                instead = [self.names[left[0]]]
            else:
                instead = [self.names[n] for n in left] if anchor == "random" else [self.names[self.label(anchor)]]
            pairs += [Pair(self.names[k], name) for name in instead]
        same = next((p for p in pairs if p.prompt == p.anchor), None)
        if same:
            raise ValueError(f"the concept and its anchor are the same ({same.prompt!r}); choose another --anchor")
        return pairs

    def keep(self, concepts: list[str], vocabulary: Vocabulary, count: int, seed: int) -> list[str]:
        """The other classes in turn, in a random order."""
        gone = [self.label(c) for c in concepts]
        left = [name for k, name in enumerate(self.names) if k not in gone]
        if not left:
            raise ValueError("no class is left to keep")
        random.Random(seed).shuffle(left)
        return [left[k % len(left)] for k in range(count)]

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        return {"label": torch.tensor([self.label(p) for p in prompts], device=self.device)}

    # ----------------------------------------------------------------------------------- model, pictures

    @property
    def image_size(self) -> tuple[int, int]:
        return self.latent_shape[1:]

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (N, C, H, W) in [-1, 1] of images in [0, 1]; grey where the model draws one channel."""
        images = images.mean(1, keepdim=True) if self.latent_shape[0] == 1 else images
        return (2 * images - 1).to(self.device, self.dtype)

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        out = model(x, t, class_labels=conditions["label"]).sample
        return out[:, : x.shape[1]]  # improved DDPM: the other half is the learned variance

    @torch.no_grad()
    def draw(
        self,
        prompts: list[str],
        seeds: list[int],
        steps: int,
        batch_size: int,
        progress: Callable[[int], None] | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Pictures (N, C, H, W) in [0, 1] by DDIM, for lack of a `__call__` that takes labels.

        Args:
            guidance: Classifier-free, where the model knows a class that stands for none; up to 1 is without.
        """
        conditions, pictures = self.encode(prompts), []
        for rows in torch.arange(len(prompts)).split(batch_size):
            noise = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seeds[r])) for r in rows]
            x = torch.stack(noise).to(self.device, self.dtype)
            times = self.times(torch.linspace(1 - 1e-6, 0, steps + 1)[:-1]).tolist()
            for t, s in zip(times, [*times[1:], -1], strict=True):
                t, s = (torch.full((len(x),), k, device=x.device) for k in (t, s))
                led = self.guide(x, t, select(conditions, rows), guidance)
                x = self.step(x.float(), led, t, s).to(x.dtype)
            pictures.append((x.float().cpu() / 2 + 0.5).clamp(0, 1))
            if progress:
                progress(len(rows))
        return torch.cat(pictures)

    def guide(self, x: torch.Tensor, t: torch.Tensor, conditions: Conditions, guidance: float) -> torch.Tensor:
        """The prediction (B, C, H, W), float32, led away from that of no class."""
        if not self.guided or guidance <= 1:
            return self.predict(x, t, conditions).float()
        nothing = self.encode([self.empty] * len(x))
        both = self.predict(x.repeat(2, 1, 1, 1), t.repeat(2), join([conditions, nothing])).float()
        own, empty = both.chunk(2)
        return guided(own, empty, guidance)
