"""An adapter under the names that ComfyUI, A1111, Forge and stable-diffusion.cpp read: those of kohya's sd-scripts.

SD1, SD2   lora_unet_ and the diffusers name             lora_te_ and the name in transformers
SDXL       lora_unet_ and the name in the original code  lora_te1_, lora_te2_
FLUX       lora_unet_ and the name in the original code, q, k, v (and the MLP beside them) in one
PixArt     transformer. and the diffusers name, as ComfyUI, the only reader, maps it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from ..adapter.weights import lora_factors
from .narrow import Factors, narrowed
from .pipeline import TEXT_ENCODERS, adapted_parts, component, denoiser, lora_name
from .single_file import unet_name, unet_structure

# Where sd-scripts and stable-diffusion.cpp look for LoRAs; what lies outside of the blocks they pass over.
BLOCKS = re.compile(r"(down_blocks|mid_block|up_blocks|transformer_blocks|single_transformer_blocks)\.")
CLIP_LAYERS = re.compile(r"(text_model\.)?encoder\.layers\.")
CLIPS = {"sd1": 1, "sd2": 1, "sdxl": 2, "flux": 1, "pixart": 0}  # text encoders that have names
NUMBERED = ("sdxl", "flux")  # whose text encoders are lora_te1, lora_te2
FLUX_WIDTH = 3072  # of FLUX.1 and its kin; diffusers' reader knows no other
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
    "attn.to_q": "img_attn.qkv", "attn.to_k": "img_attn.qkv", "attn.to_v": "img_attn.qkv",
    "attn.add_q_proj": "txt_attn.qkv", "attn.add_k_proj": "txt_attn.qkv", "attn.add_v_proj": "txt_attn.qkv",
    "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
}  # fmt: skip
FLUX_SINGLE = {
    "norm.linear": "modulation.lin", "proj_out": "linear2",
    "attn.to_q": "linear1", "attn.to_k": "linear1", "attn.to_v": "linear1", "proj_mlp": "linear1",
}  # fmt: skip


@dataclass
class KohyaLayers:
    """Key -> factors of a file, and the layers that are left out with their share of the update's energy."""

    factors: dict[str, Factors]
    left_out: list[str] = field(default_factory=list)
    share: float = 0.0

    def words(self) -> str:
        """What was left out, as a sentence; "" for nothing."""
        if not self.left_out:
            return ""
        few = ", ".join(self.left_out[:6]) + (", ..." if len(self.left_out) > 6 else "")
        return (
            f"the kohya file leaves out {len(self.left_out)} layers that sd-scripts and stable-diffusion.cpp pass over "
            f"({few}); they carry {self.share:.1%} of the update's energy"
        )


def model_kind(pipe) -> str:
    """sd1, sd2, sdxl, flux or pixart. ValueError for models whose adapters no program reads under such names."""
    import diffusers

    model, name = denoiser(pipe), type(pipe).__name__
    if isinstance(model, diffusers.UNet2DConditionModel):
        if getattr(pipe, "text_encoder_2", None) is not None:
            return "sdxl"
        return "sd2" if model.config.cross_attention_dim == 1024 else "sd1"
    if isinstance(model, diffusers.PixArtTransformer2DModel):
        return "pixart"
    if isinstance(model, diffusers.FluxTransformer2DModel):
        if model.config.num_attention_heads * model.config.attention_head_dim != FLUX_WIDTH:
            raise ValueError(f"kohya files are read for a FLUX {FLUX_WIDTH} wide only; use --to diffusers")
        return "flux"
    way = "use --to diffusers, which ComfyUI reads as well" if hasattr(pipe, "load_lora_weights") else "use --to native"
    raise ValueError(f"ComfyUI and diffusers agree on no kohya names for {name}; {way}")


def kohya_names(pipe, kind: str) -> Callable[[str, str], str]:
    """(part, layer) -> the key of a layer, FLUX's transformer excepted.

    Raises:
        ValueError: blocks of different depth. The function: a layer that the original code has no place for, or a text
            encoder that the format lacks.
    """
    structure = unet_structure(denoiser(pipe)) if kind == "sdxl" else ()

    def name(part: str, layer: str) -> str:
        if part in TEXT_ENCODERS:
            k = TEXT_ENCODERS.index(part)
            if k >= CLIPS[kind]:
                raise ValueError(f"kohya files hold no layers of a {part} of {type(pipe).__name__}; use --to diffusers")
            return f"lora_te{k + 1 if kind in NUMBERED else ''}_{lora_name(part, layer)}".replace(".", "_")
        if kind == "pixart":
            return f"transformer.{layer}"
        own = unet_name(f"{layer}.weight", *structure).removesuffix(".weight") if structure else layer
        return f"lora_unet_{own}".replace(".", "_")

    return name


def flux_layers(factors: dict[str, Factors]) -> dict[str, Factors]:
    """FLUX's transformer under the original names; layers that are one there become block-diagonal factors.

    [W_q; W_k; W_v] + diag(B_q, B_k, B_v) [A_q; A_k; A_v] is exactly the three updates; a layer that has none gets
    zeros as high as it is.
    """
    joint: dict[str, list[Factors]] = {}
    for key, layers in flux_members(factors).items():
        held = [(layer, factors.get(layer)) for layer in layers]
        width = next(pair[0] for _, pair in held if pair is not None).shape[1]
        blank = lambda layer: 4 * FLUX_WIDTH if layer.endswith("proj_mlp") else FLUX_WIDTH  # noqa: E731
        joint[key] = [pair or (torch.zeros(0, width), torch.zeros(blank(layer), 0)) for layer, pair in held]
    return {
        key: (torch.cat([A for A, _ in pairs]), torch.block_diag(*(B for _, B in pairs)))
        for key, pairs in joint.items()
    }


def flux_members(layers: Iterable[str]) -> dict[str, list[str]]:
    """Key -> the layers that it joins, in the order of the original's rows; only keys with an adapted layer."""
    members = {}
    for layer in layers:
        side, number, inner = re.fullmatch(
            r"(single_transformer_blocks|transformer_blocks)\.(\d+)\.(.+)", layer
        ).groups()
        table, name = (FLUX_DOUBLE, "double") if side == "transformer_blocks" else (FLUX_SINGLE, "single")
        key = f"lora_unet_{name}_blocks_{number}_{table[inner]}".replace(".", "_")
        members[key] = [f"{side}.{number}.{k}" for k, place in table.items() if place == table[inner]]
    return members


def energy(A: torch.Tensor, B: torch.Tensor) -> float:
    """||B A||_F^2 from the small products of the factors."""
    A, B = A.flatten(1).double(), B.flatten(1).double()
    return ((B.T @ B) * (A @ A.T)).sum().item()


def kohya_layers(pipe, adapter_name: str = "default", everything: bool = False) -> KohyaLayers:
    """An adapter's exact factors by key of a kohya file.

    Args:
        everything: Keep layers outside of the model's blocks too (conv_in, conv_out, time and added embeddings, a text
            encoder's projection), which ComfyUI, A1111 and diffusers read, but sd-scripts and stable-diffusion.cpp
            pass over, so that one file does not do the same everywhere.

    Raises:
        ValueError: a model or layer that the names cannot express; nothing is left.
    """
    kind, found, left_out, energies = model_kind(pipe), {}, [], {True: 0.0, False: 0.0}
    if kind == "flux" and everything:
        raise ValueError("no names for FLUX's layers outside of its blocks are read by both ComfyUI and diffusers")
    name = kohya_names(pipe, kind)
    for part, model in adapted_parts(pipe, adapter_name).items():
        own = lora_factors(model, adapter_name)
        inside = CLIP_LAYERS if part in TEXT_ENCODERS else BLOCKS
        kept = {k: f for k, f in own.items() if everything or kind == "pixart" or inside.match(k)}
        for layer, pair in own.items():
            energies[layer in kept] += energy(*pair)
        prefix = "" if part == component(pipe) else f"{part}."
        left_out += [f"{prefix}{layer}" for layer in own if layer not in kept]
        if kind == "flux" and part == "transformer":
            found |= flux_layers(kept)
        else:
            found |= {name(part, layer): pair for layer, pair in kept.items()}
    if not found:
        raise ValueError("the adapter changes only layers that kohya files leave out; use --all-layers")
    return KohyaLayers(found, left_out, energies[False] / max(sum(energies.values()), 1e-300))


def kohya_state(layers: dict[str, Factors], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """down = A, up = r B, alpha = 1, so that alpha / r * up @ down = B A.

    One constant alpha: diffusers' own reader of this format loses per-layer alphas on attention layers.
    """
    state = {}
    for key, (A, B) in layers.items():
        down, up = narrowed(A, B * len(A), dtype)
        alpha = torch.tensor(1.0, dtype=dtype)
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": alpha}
    return state
