"""A whole Stable Diffusion model as one file in the layout of the original code, as A1111 and ComfyUI load it.

The names are those of CompVis' and Stability's checkpoints: `model.diffusion_model.` for the UNet,
`first_stage_model.` for the VAE, `cond_stage_model.` (SD1, SD2) or `conditioner.embedders.` (SDXL) for text encoders.
A file of this kind holds weights only. Scheduler, prediction type and the VAE's scale are what the loading program
assumes for the kind of model, so a v-prediction SD2 model needs that setting there.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from ..adapter.weights import save_atomic

SINGLE = "model.safetensors"
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_ENDS = ("conv_in", "conv_out", "quant_conv", "post_quant_conv")
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
}  # fmt: skip


def unknown(part: str, key: str) -> ValueError:
    """The error for a weight that the layout has no place for."""
    return ValueError(f"the single-file layout has no place for {part}.{key}; use --to merged")


# ----------------------------------------------------------------------------------------------- UNet


def unet_name(key: str, per_block: int, attention: set[str]) -> str:
    """The original name of a UNet weight.

    Args:
        per_block: Resnets in each down block; an up block has one more.
        attention: Blocks with attention ("up_blocks.1"), after which an upsampler stands at another place.

    Raises:
        ValueError: a weight that Stable Diffusion 1, 2 and XL do not have.
    """
    layer, _, end = key.rpartition(".")
    if layer in ENDS:
        return f"{ENDS[layer]}.{end}"
    found = re.fullmatch(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", layer)
    if not found:
        raise unknown("unet", key)
    side, block, kind, j, inner = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    place = unet_place(side, block, kind, j, per_block, f"{side}.{block}" in attention)
    inner = RESNET.get(inner) if kind == "resnets" else inner
    if place is None or inner is None:
        raise unknown("unet", key)
    return f"{place}.{end}" if kind.endswith("samplers") else f"{place}.{inner}.{end}"


def unet_place(side: str, block: int, kind: str, j: int, per_block: int, attention: bool) -> str | None:
    """Where a resnet, an attention or a sampler of a block stands in the original's flat lists; None for others."""
    if side == "mid_block":
        return {"resnets": f"middle_block.{2 * j}", "attentions": f"middle_block.{2 * j + 1}"}.get(kind)
    first = block * (per_block + 1)
    if side == "down_blocks":
        own = {"resnets": f"{first + j + 1}.0", "attentions": f"{first + j + 1}.1"}
        own["downsamplers"] = f"{first + per_block + 1}.0.op"
        return f"input_blocks.{own[kind]}" if kind in own else None
    own = {"resnets": f"{first + j}.0", "attentions": f"{first + j}.1"}
    own["upsamplers"] = f"{first + per_block}.{2 if attention else 1}.conv"
    return f"output_blocks.{own[kind]}" if kind in own else None


def unet_structure(unet: nn.Module) -> tuple[int, set[str]]:
    """Resnets in a down block, and the blocks with attention. ValueError for blocks of different depth."""
    per_block = unet.config.layers_per_block
    if not isinstance(per_block, int):
        raise ValueError("the original code needs as many resnets in each block of the unet; use --to merged")
    return per_block, {".".join(name.split(".")[:2]) for name, _ in unet.named_modules() if ".attentions." in name}


def unet_state(unet: nn.Module) -> dict[str, torch.Tensor]:
    """The UNet's weights under their original names. ValueError as `unet_name`, or for blocks of different depth."""
    structure = unet_structure(unet)
    return {unet_name(key, *structure): value for key, value in unet.state_dict().items()}


# ------------------------------------------------------------------------------------------------ VAE


def vae_name(key: str, blocks: int) -> str:
    """The original name of a VAE weight; its up blocks are counted from the other end. ValueError for unknown ones."""
    layer, _, end = key.rpartition(".")
    side, _, rest = layer.partition(".")
    if layer in VAE_ENDS or rest in VAE_ENDS:
        return key
    if rest == "conv_norm_out":
        return f"{side}.norm_out.{end}"
    middle = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", rest)
    if middle and middle[1] == "resnets":
        return f"{side}.mid.block_{int(middle[2]) + 1}.{shortcut(middle[3])}.{end}"
    if middle and middle[3] in VAE_ATTENTION:
        return f"{side}.mid.attn_{int(middle[2]) + 1}.{VAE_ATTENTION[middle[3]]}.{end}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", rest)
    if not found:
        raise unknown("vae", key)
    way, i, j, inner = found[1], int(found[2]), found[4], found[5]
    i = blocks - 1 - i if way == "up" else i
    own = f"block.{j}.{shortcut(inner)}" if found[3] == "resnets" else f"{way}sample.conv"
    return f"{side}.{way}.{i}.{own}.{end}"


def shortcut(name: str) -> str:
    """A resnet's part; only the 1x1 convolution beside it has another name."""
    return "nin_shortcut" if name == "conv_shortcut" else name


def vae_state(vae: nn.Module) -> dict[str, torch.Tensor]:
    """The VAE's weights under their original names; attention weights are 1x1 convolutions there."""
    state, blocks = {}, len(vae.config.block_out_channels)
    for key, value in vae.state_dict().items():
        name = vae_name(key, blocks)
        state[name] = value[:, :, None, None] if ".attn_" in name and value.ndim == 2 else value
    return state


# -------------------------------------------------------------------------------------- text encoders


def clip_state(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """A CLIP's weights as OpenAI's release names them, with `text_model.` whatever the version of transformers."""
    bare = ("text_model.", "text_projection.")
    return {k if k.startswith(bare) else f"text_model.{k}": v for k, v in encoder.state_dict().items()}


def open_clip_state(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """A CLIP's weights as OpenCLIP names them: q, k and v in one matrix, and the projection transposed.

    Raises:
        ValueError: a weight that OpenCLIP does not have.
    """
    state, joint = {}, {}
    for key, value in clip_state(encoder).items():
        key = key.removeprefix("text_model.")
        inside = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        attention = inside and re.fullmatch(r"self_attn\.([qkv])_proj", inside[2])
        if attention:
            joint.setdefault(f"transformer.resblocks.{inside[1]}.attn.in_proj_{inside[3]}", {})[attention[1]] = value
        elif inside and inside[2] in OPEN_CLIP:
            state[f"transformer.resblocks.{inside[1]}.{OPEN_CLIP[inside[2]]}.{inside[3]}"] = value
        elif key == "text_projection.weight":
            state["text_projection"] = value.T
        elif key in OPEN_CLIP_ENDS:
            state[OPEN_CLIP_ENDS[key]] = value
        elif not key.endswith("position_ids"):
            raise unknown("text_encoder", key)
    return {**state, **{key: torch.cat([three[k] for k in "qkv"]) for key, three in joint.items()}}


def text_state(pipe) -> dict[str, torch.Tensor]:
    """The text encoders' weights with the prefixes of their place: SD1 OpenAI's CLIP, SD2 OpenCLIP, SDXL both."""
    first, second = pipe.text_encoder, getattr(pipe, "text_encoder_2", None)
    if second is not None:
        old = {f"conditioner.embedders.0.transformer.{k}": v for k, v in clip_state(first).items()}
        return {**old, **{f"conditioner.embedders.1.model.{k}": v for k, v in open_clip_state(second).items()}}
    if first.config.hidden_act == "quick_gelu":  # OpenAI's; OpenCLIP has the exact GELU
        return {f"cond_stage_model.transformer.{k}": v for k, v in clip_state(first).items()}
    return {f"cond_stage_model.model.{k}": v for k, v in open_clip_state(first).items()}


# ----------------------------------------------------------------------------------------------- file


def check_single_file(pipe) -> None:
    """ValueError unless the pipeline is Stable Diffusion 1, 2 or XL with convolutions as the original code has them."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if not isinstance(pipe, (StableDiffusionPipeline, StableDiffusionXLPipeline)):
        raise ValueError(f"the single-file layout is that of Stable Diffusion 1, 2 and XL, not {type(pipe).__name__}")
    for part in ("unet", "vae"):
        for name, layer in getattr(pipe, part).named_modules():
            if isinstance(layer, nn.Conv2d) and (
                layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros"
            ):
                what = f"a convolution with groups, dilation or {layer.padding_mode} padding"
                raise ValueError(
                    f"the single-file layout cannot express {part}.{name.removesuffix('.base_layer')}: {what}"
                )


def single_file_state(pipe) -> dict[str, torch.Tensor]:
    """All weights of a pipeline without adapters under their original names.

    Raises:
        ValueError: as `check_single_file`, or a weight that the layout has no place for.
    """
    check_single_file(pipe)
    return {
        **{f"model.diffusion_model.{k}": v for k, v in unet_state(pipe.unet).items()},
        **{f"first_stage_model.{k}": v for k, v in vae_state(pipe.vae).items()},
        **text_state(pipe),
    }


def save_single_file(pipe, path: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Writes `single_file_state`, in another floating-point type on request, and returns the path."""
    state = single_file_state(pipe)
    save_atomic({k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in state.items()}, Path(path))
    return Path(path)
