"""Real configurations of the models that people erase from, without weights, and what the scale benchmarks do to them.

Configurations are those that the checkpoints on the Hub carry; `tiny` is SD1.5 with fewer channels and blocks, for
tests, and `half` with half the channels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from semu_diffusion.adapter import SemuConfig, SemuLayer, find_layers
from semu_diffusion.adapter.base_layers import matrix_shape
from semu_diffusion.adapter.weights import inject, semu_layers

SD15 = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict]] = {
    "tiny": ("UNet2DConditionModel", {
        "sample_size": 16, "cross_attention_dim": 32, "attention_head_dim": 2, "norm_num_groups": 8,
        "block_out_channels": (32, 64), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }),
    "half": ("UNet2DConditionModel", {**SD15, "block_out_channels": (160, 320, 640, 640)}),
    "sd15": ("UNet2DConditionModel", SD15),
    "sd21": ("UNet2DConditionModel", {
        **SD15, "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    }),
    "sdxl": ("UNet2DConditionModel", {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }),
    "sd3": ("SD3Transformer2DModel", {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
        "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
    }),
    "sd35-large": ("SD3Transformer2DModel", {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 38,
        "attention_head_dim": 64, "num_attention_heads": 38, "joint_attention_dim": 4096, "qk_norm": "rms_norm",
        "caption_projection_dim": 2432, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
    }),
    "pixart": ("PixArtTransformer2DModel", {
        "sample_size": 128, "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4,
        "out_channels": 8, "cross_attention_dim": 1152, "caption_channels": 4096, "use_additional_conditions": False,
    }),
    "flux": ("FluxTransformer2DModel", {
        "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    }),
}  # fmt: skip


def make(name: str, device: str = "cpu", **changes) -> nn.Module:
    """A model of this configuration with random weights, in eval mode and frozen; on "meta" without any."""
    import diffusers

    kind, config = CONFIGS[name]
    with torch.device(device):
        model = getattr(diffusers, kind)(**{**config, **changes})
    return model.to(device).eval().requires_grad_(False)


def inputs(
    name: str, model: nn.Module, batch: int, device: str = "cpu", start: bool = False
) -> Callable[[nn.Module], torch.Tensor]:
    """A function that calls the model on a batch of latents of its configured size and a prompt's states.

    Args:
        start: Whether all of these ask for a gradient.
    """
    c, randn = model.config, lambda *shape: torch.randn(*shape, device=device, requires_grad=start)
    t = torch.full((batch,), 500.0, device=device)
    if name == "flux":  # 1024 pixels: 64 x 64 patches, 512 tokens
        x, text, ids = randn(batch, 4096, 64), randn(batch, 512, 4096), randn(4096, 3)
        pooled = randn(batch, 768)
        return lambda m: m(x, text, pooled, t / 1000, ids, randn(512, 3), t).sample
    x = randn(batch, c.in_channels, c.sample_size, c.sample_size)
    if name.startswith("sd3"):
        text, pooled = randn(batch, 77 + 256, 4096), randn(batch, 2048)
        return lambda m: m(x, text, pooled, t).sample
    if name == "pixart":
        text, added = randn(batch, 300, 4096), {"resolution": None, "aspect_ratio": None}
        return lambda m: m(x, text, timestep=t, added_cond_kwargs=added).sample
    text, added = randn(batch, 77, c.cross_attention_dim), None
    if name == "sdxl":
        added = {"text_embeds": randn(batch, 1280), "time_ids": randn(batch, 6)}
    return lambda m: m(x, t, text, added_cond_kwargs=added).sample


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of all Linear and Conv2d layers, by name."""
    return {name: tuple(layer.weight.shape) for name, layer in find_layers(model, SemuConfig()).items()}


def ranks(model: nn.Module, r: int) -> dict[str, int]:
    """Rank r for every layer, less where the layer is smaller."""
    return {name: min(r, *matrix_shape(layer)) for name, layer in find_layers(model, SemuConfig()).items()}


# ---------------------------------------------------------------------------------------------- variants


def as_semu(model: nn.Module, r: int) -> list[nn.Parameter]:
    """SEMU of rank r in every layer with random U and V; returns what is trained."""
    inject(model, SemuConfig(ranks=ranks(model, r)))
    for layer in semu_layers(model).values():
        (m, n), k = matrix_shape(layer.get_base_layer()), layer.r["default"]
        layer.set_basis("default", torch.randn(m, k) / m**0.5, torch.randn(n, k) / n**0.5)
    return [p for p in model.parameters() if p.requires_grad]


def as_lora(model: nn.Module, r: int) -> list[nn.Parameter]:
    """PEFT's LoRA of the same ranks in the same layers."""
    wanted = ranks(model, r)
    smaller = {f"^{k}": v for k, v in wanted.items() if v != r}  # a pattern per layer would be tried for each layer
    config = LoraConfig(r=r, lora_alpha=r, target_modules=list(wanted), rank_pattern=smaller)
    inject_adapter_in_model(config, model)
    return [p for p in model.parameters() if p.requires_grad]


def as_full(model: nn.Module, r: int) -> list[nn.Parameter]:
    """The weights of the same layers themselves."""
    weights = [layer.weight for layer in find_layers(model, SemuConfig()).values()]
    for weight in weights:
        weight.requires_grad_(True)
    return weights


class Rebuilt(nn.Module):
    """The published forward: W + U R V^T is built anew on every call."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, r: int):
        super().__init__()
        (m, n), device = matrix_shape(layer), layer.weight.device
        self.layer = layer
        self.register_buffer("U", torch.randn(m, r, device=device) / m**0.5)
        self.register_buffer("V", torch.randn(n, r, device=device) / n**0.5)
        self.R = nn.Parameter(torch.zeros(r, r, device=device))

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)

    def forward(self, x: torch.Tensor, *args) -> torch.Tensor:
        weight = self.layer.weight + (self.U @ self.R @ self.V.T).view_as(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


def as_published(model: nn.Module, r: int) -> list[nn.Parameter]:
    """`Rebuilt` in every layer."""
    for name, k in ranks(model, r).items():
        model.set_submodule(name, Rebuilt(model.get_submodule(name), k))
    return [p for p in model.parameters() if p.requires_grad]


VARIANTS = {"semu": as_semu, "lora": as_lora, "full": as_full, "published": as_published}


def restore(model: nn.Module) -> None:
    """The model as `make` gave it."""
    for name, module in list(model.named_modules()):
        if isinstance(module, (Rebuilt, BaseTunerLayer)):
            model.set_submodule(name, module.layer if isinstance(module, Rebuilt) else module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
        model._hf_peft_config_loaded = False
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = None


def merge(model: nn.Module) -> None:
    """Every SEMU layer's update into its weight."""
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer)):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """And out again."""
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer)):
        layer.unmerge()


# ---------------------------------------------------------------------------------------------- pipeline


def write_pipeline(name: str, folder: Path, sample_size: int) -> Path:
    """A whole Stable Diffusion pipeline with random weights: the UNet of this name, SD1.5's text encoder and VAE."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    tiny = name == "tiny"
    words = letters(folder / "words")
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2} if tiny else {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12
    }  # fmt: skip
    ids = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    channels = (8, 16) if tiny else (128, 256, 512, 512)
    pipe = StableDiffusionPipeline(
        unet=make(name, sample_size=sample_size),
        vae=AutoencoderKL(
            block_out_channels=channels, norm_num_groups=8 if tiny else 32, layers_per_block=1 if tiny else 2,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text, vocab_size=49408, max_position_embeddings=77, **ids)),
        tokenizer=words,
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def letters(folder: Path):
    """CLIP's tokenizer without its merges: one token a letter, as no vocabulary can be downloaded."""
    from transformers import CLIPTokenizer

    signs = [chr(c) for c in range(33, 127)]
    tokens = [*signs, *(f"{c}</w>" for c in signs), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=77)
