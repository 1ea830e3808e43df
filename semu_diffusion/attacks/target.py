"""The model under attack: a pipeline with its adapters merged, its text encoder open, and pictures to attack with."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..diffusion.families import StableDiffusion
from ..diffusion.objectives import squared_error
from ..diffusion.pipeline import component, denoiser, parts
from ..diffusion.plain import plain


def flatten(model: nn.Module) -> nn.Module:
    """Merges every active PEFT adapter of a model into its weights, in place, and leaves plain layers."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    for layer in layers.values():
        if not layer.merged and not layer.disable_adapters:
            layer.merge()
    outer = [name for name in layers if not any(name.startswith(f"{other}.") for other in layers)]
    for name in outer:
        model.set_submodule(name, layers[name].get_base_layer())
    if layers:
        model._hf_peft_config_loaded = False
        vars(model).pop("peft_config", None)
    return model.requires_grad_(False).eval()


@dataclass
class Pictures:
    """Latents (N, C, H, W) with the prompt of each."""

    latents: torch.Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass
class Noised:
    """Pictures at random times: x_t (N, C, H, W), t (N,), what the model should predict, and which picture each is."""

    x: torch.Tensor
    t: torch.Tensor
    truth: torch.Tensor
    picture: torch.Tensor


class Target:
    """A merged copy of a Stable Diffusion 1/2 pipeline; attacks never touch the pipeline that was passed in.

    `taken_off` says what the copy lacks (`diffusion.plain`): it is the model with its SEMU adapters and nothing else.

    Raises:
        ValueError: another kind of pipeline.
    """

    def __init__(self, pipe):
        if not StableDiffusion.matches(pipe):
            raise ValueError(f"attacks need a Stable Diffusion 1 or 2 pipeline, this is {type(pipe).__name__}")
        with plain(pipe, hooks=True) as self.taken_off:
            self.pipe = rebuilt(pipe, {name: flatten(copy.deepcopy(model)) for name, model in parts(pipe).items()})
        self.pipe.vae.requires_grad_(False).eval()
        self.family = StableDiffusion(self.pipe)
        self.family.check()
        self.device = self.family.device

    @property
    def model(self) -> nn.Module:
        """The denoiser."""
        return denoiser(self.pipe)

    def with_model(self, model: nn.Module) -> Target:
        """The same with another denoiser, which is not copied."""
        other = copy.copy(self)
        other.pipe = rebuilt(self.pipe, {component(self.pipe): model})
        other.family = StableDiffusion(other.pipe)
        return other

    # -------------------------------------------------------------------------------------------- text

    def ids(self, prompts: list[str]) -> torch.Tensor:
        """Padded token ids (N, T)."""
        tokenizer = self.pipe.tokenizer
        options = {"padding": "max_length", "truncation": True, "max_length": tokenizer.model_max_length}
        return tokenizer(prompts, return_tensors="pt", **options).input_ids.to(self.device)

    @property
    def embeddings(self) -> torch.Tensor:
        """The token embeddings (V, d)."""
        return self.pipe.text_encoder.get_input_embeddings().weight

    def encode(self, ids: torch.Tensor, embeds: torch.Tensor | None = None) -> torch.Tensor:
        """Text states (N, T, d) of ids (N, T), or of embeddings (N, T, d) in their place; differentiable."""
        encoder = self.pipe.text_encoder
        if embeds is None:
            return encoder(ids)[0]
        handle = encoder.get_input_embeddings().register_forward_hook(lambda *_: embeds)
        try:
            return encoder(ids)[0]
        finally:
            handle.remove()

    # ---------------------------------------------------------------------------------------- pictures

    @torch.no_grad()
    def draw(self, text: torch.Tensor, seeds: list[int], steps: int, guidance: float, batch: int = 48) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] for text states (N, T, d), one seed each, through the pipeline itself."""
        self.pipe.set_progress_bar_config(disable=True)
        empty, images = self.encode(self.ids([""])), []
        for k in range(0, len(seeds), batch):
            own = text[k : k + batch]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[k : k + batch]]
            images.append(self.pipe(
                prompt_embeds=own, negative_prompt_embeds=empty.expand(len(own), -1, -1), generator=generators,
                num_inference_steps=steps, guidance_scale=guidance, output_type="pt",
            ).images.float().cpu())  # fmt: skip
        return torch.cat(images)

    def draw_prompts(self, prompts: list[str], seeds: list[int], steps: int, guidance: float) -> torch.Tensor:
        """`draw` for plain prompts."""
        with torch.no_grad():
            text = torch.cat([self.encode(part) for part in self.ids(prompts).split(64)])
        return self.draw(text, seeds, steps, guidance)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] of latents."""
        vae = self.pipe.vae
        z = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
        return torch.cat([(vae.decode(part).sample / 2 + 0.5).clamp(0, 1).float().cpu() for part in z.split(16)])

    def pictures(self, prompts: list[str], seeds: list[int], steps: int, guidance: float) -> Pictures:
        """What this model draws for prompts, as latents of the finished pictures."""
        return Pictures(self.family.encode_images(self.draw_prompts(prompts, seeds, steps, guidance)), prompts)

    # ------------------------------------------------------------------------------------------ losses

    def noised(self, pictures: Pictures, n: int, generator: torch.Generator) -> Noised:
        """n random pictures, each at a random time."""
        picture = torch.randint(len(pictures), (n,), generator=generator)
        u = (torch.arange(n) + torch.rand(n, generator=generator)) / n  # the whole schedule, in every batch
        t, clean = self.family.times(u).to(self.device), pictures.latents[picture].to(self.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return Noised(self.family.noised(clean, noise, t), t, self.family.truth(clean, noise, t), picture)

    def loss(self, noised: Noised, text: torch.Tensor) -> torch.Tensor:
        """The model's training loss with text states (N, T, d)."""
        return squared_error(self.family.predict(noised.x, noised.t, {"text": text}), noised.truth)


def rebuilt(pipe, models: dict[str, nn.Module]):
    """A pipeline of the same parts, with some models replaced."""
    options = {"requires_safety_checker": False} if getattr(pipe, "safety_checker", None) is None else {}
    fresh = type(pipe)(**{**pipe.components, **models}, **options)
    fresh.register_to_config(_name_or_path=pipe.config.get("_name_or_path"))
    return fresh
