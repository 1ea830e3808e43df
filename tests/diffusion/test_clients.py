"""Names of kohya files against those that other programs look for, at the structure of the real models.

The tables say what each program's own code does with a name, by the file that it stands in:

    ComfyUI      comfy/lora.py (model_lora_keys_unet, model_lora_keys_clip), comfy/utils.py (unet_to_diffusers, ...)
    sd-scripts   networks/lora.py (target modules), library/sdxl_model_util.py (names of SDXL)
    A1111        extensions-builtin/Lora/networks.py (convert_diffusers_name_to_compvis)
"""

import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils as readers
from diffusers.utils import convert_unet_state_dict_to_peft
from tiny_families import build_family, load_family
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from semu_diffusion.diffusion.export import export
from semu_diffusion.diffusion.kohya import (
    BLOCKS,
    CLIP_LAYERS,
    flux_layers,
    flux_members,
    kohya_layers,
    kohya_names,
    kohya_state,
    model_kind,
)
from semu_diffusion.diffusion.single_file import unet_state

SDXL = dict(
    block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    up_block_types=(*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"), cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
)  # fmt: skip
BIG_CLIP = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
                hidden_act="gelu", projection_dim=1280)  # fmt: skip

# layer of a block: its name in diffusers -> in the original code (SAI)
RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
TRANSFORMER = (
    "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
    "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
)  # fmt: skip
CLIP = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2")
# what sd-scripts and stable-diffusion.cpp pass over: name in diffusers -> in the original code
OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}  # fmt: skip
OUTSIDE_SDXL = {**OUTSIDE, "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


@pytest.fixture(scope="module")
def pipes():
    """SD1.5 and SDXL as they really are, without weights."""
    with torch.device("meta"):
        small = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
        big = CLIPTextModelWithProjection(CLIPTextConfig(**BIG_CLIP))
        sd1 = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        sdxl = UNet2DConditionModel(**SDXL)
    return {
        "sd1": SimpleNamespace(unet=sd1, text_encoder=small),
        "sdxl": SimpleNamespace(unet=sdxl, text_encoder=small, text_encoder_2=big),
    }


def layers(model):
    return [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def keys(pipe, part):
    name = kohya_names(pipe, model_kind(pipe))
    return {name(part, layer) for layer in layers(getattr(pipe, part))}


def spread(place, depth, skip):
    """The layers of a resnet and, for depth > 0, of the attention after it in the original code."""
    yield from (f"{place}.0.{name}" for name in RESNET.values())
    yield from [f"{place}.0.skip_connection"] if skip else []
    if depth:
        yield from (f"{place}.1.{end}" for end in ("proj_in", "proj_out"))
        yield from (f"{place}.1.transformer_blocks.{k}.{name}" for k in range(depth) for name in TRANSFORMER)


def original_sdxl():
    """Every Linear and Conv2d of SDXL's U-Net by its name in the original code, outside layers left aside."""
    for i, depth, skip in ((1, 0, 0), (2, 0, 0), (4, 2, 1), (5, 2, 0), (7, 10, 1), (8, 10, 0)):
        yield from spread(f"input_blocks.{i}", depth, skip)
    yield from ("input_blocks.3.0.op", "input_blocks.6.0.op", "output_blocks.2.2.conv", "output_blocks.5.2.conv")
    yield from spread("middle_block", 10, 0)
    yield from (f"middle_block.2.{name}" for name in RESNET.values())
    for i, depth in enumerate((10, 10, 10, 2, 2, 2, 0, 0, 0)):
        yield from spread(f"output_blocks.{i}", depth, True)


def comfy_sd1():
    """The names that ComfyUI maps for SD1: those of diffusers, block by block; some have no layer behind them."""
    inner = (*RESNET, "conv_shortcut")
    blocks = [(f"down_blocks.{i}", 2, i < 3) for i in range(4)] + [(f"up_blocks.{i}", 3, i > 0) for i in range(4)]
    for block, count, attention in [*blocks, ("mid_block", 2, True)]:
        yield from (f"{block}.resnets.{j}.{name}" for j in range(count) for name in inner)
        for j in range(count if attention else 0):
            yield from (f"{block}.attentions.{j}.{end}" for end in ("proj_in", "proj_out"))
            yield from (f"{block}.attentions.{j}.transformer_blocks.0.{name}" for name in TRANSFORMER)
        yield from (f"{block}.{side}samplers.0.conv" for side in ("down", "up"))
    yield from OUTSIDE


# (what A1111 matches in a key, what it makes of it in the original code's names)
A1111 = (
    (r"conv_in", lambda: "input_blocks_0_0"),
    (r"conv_out", lambda: "out_2"),
    (r"time_embedding_linear_(\d)", lambda n: f"time_embed_{2 * int(n) - 2}"),
    (r"down_blocks_(\d)_resnets_(\d)_(.+)", lambda i, j, x: f"input_blocks_{1 + 3 * int(i) + int(j)}_0_{x}"),
    (r"down_blocks_(\d)_attentions_(\d)_(.+)", lambda i, j, x: f"input_blocks_{1 + 3 * int(i) + int(j)}_1_{x}"),
    (r"mid_block_resnets_(\d)_(.+)", lambda j, x: f"middle_block_{2 * int(j)}_{x}"),
    (r"mid_block_attentions_0_(.+)", lambda x: f"middle_block_1_{x}"),
    (r"up_blocks_(\d)_resnets_(\d)_(.+)", lambda i, j, x: f"output_blocks_{3 * int(i) + int(j)}_0_{x}"),
    (r"up_blocks_(\d)_attentions_(\d)_(.+)", lambda i, j, x: f"output_blocks_{3 * int(i) + int(j)}_1_{x}"),
    (r"down_blocks_(\d)_downsamplers_0_conv", lambda i: f"input_blocks_{3 + 3 * int(i)}_0_op"),
    (r"up_blocks_(\d)_upsamplers_0_conv", lambda i: f"output_blocks_{2 + 3 * int(i)}_{2 if int(i) else 1}_conv"),
)
A1111_RESNET = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1",
                "conv_shortcut": "skip_connection"}  # fmt: skip


def a1111(key):
    """The original name that A1111 makes of a key of SD1."""
    own = key.removeprefix("lora_unet_")
    pattern, rename = next((p, r) for p, r in A1111 if re.fullmatch(p, own))
    groups = re.fullmatch(pattern, own).groups()
    if "_resnets_" in own:
        groups = (*groups[:-1], A1111_RESNET[groups[-1]])
    return rename(*groups)


# ------------------------------------------------------------------------------------------------- SDXL


def test_sdxl_has_the_original_names_and_none_is_left(pipes):
    """ComfyUI, sd-scripts and A1111 look for lora_unet_ and the original name; the sets are equal, not just near."""
    expected = {*original_sdxl(), *OUTSIDE_SDXL.values()}
    assert len(expected) == 794
    assert keys(pipes["sdxl"], "unet") == {f"lora_unet_{name.replace('.', '_')}" for name in expected}


def test_sdxl_text_encoders(pipes):
    for part, number, depth in (("text_encoder", 1, 12), ("text_encoder_2", 2, 32)):
        expected = {f"lora_te{number}_text_model_encoder_layers_{k}_{c}" for k in range(depth) for c in CLIP}
        assert keys(pipes["sdxl"], part) - {"lora_te2_text_projection"} == expected


# -------------------------------------------------------------------------------------------------- SD1


def test_sd1_in_comfyui(pipes):
    ours = keys(pipes["sd1"], "unet")
    assert ours <= {f"lora_unet_{name.replace('.', '_')}" for name in comfy_sd1()}
    assert len(ours) == len(layers(pipes["sd1"].unet))


def test_sd1_in_a1111(pipes):
    original = {name.removesuffix(".weight").replace(".", "_") for name in unet_state(pipes["sd1"].unet)}
    ours = [a1111(key) for key in keys(pipes["sd1"], "unet")]
    assert set(ours) <= original and len(set(ours)) == len(ours)


def test_sd1_text_encoder(pipes):
    expected = {f"lora_te_text_model_encoder_layers_{k}_{c}" for k in range(12) for c in CLIP}
    assert keys(pipes["sd1"], "text_encoder") == expected


@pytest.mark.parametrize("kind, outside", [("sd1", OUTSIDE), ("sdxl", OUTSIDE_SDXL)])
def test_what_sd_scripts_passes_over_is_what_is_left_out(pipes, kind, outside):
    """It takes Transformer2DModel, ResnetBlock2D, Downsample2D and Upsample2D, and CLIP's attention and MLP."""
    taken = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
    unet = pipes[kind].unet
    inside = {n for n, m in unet.named_modules() if type(m).__name__ in taken}
    for name in layers(unet):
        parents = {".".join(name.split(".")[:k]) for k in range(1, name.count(".") + 1)}
        assert bool(BLOCKS.match(name)) == bool(parents & inside) == (name not in outside)
    encoders = [part for part in ("text_encoder", "text_encoder_2") if hasattr(pipes[kind], part)]
    left = [name for part in encoders for name in layers(getattr(pipes[kind], part)) if not CLIP_LAYERS.match(name)]
    assert left == ([] if kind == "sd1" else ["text_projection"])


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("kind, outside", [("sd1", OUTSIDE), ("sdxl", OUTSIDE_SDXL)])
def test_diffusers_reads_the_same_updates_at_the_real_structure(pipes, monkeypatch, kind, outside, everything):
    """The file of an adapter on every layer, through diffusers' own reader: each update, under its layer's name."""
    unet, g, factors = pipes[kind].unet, torch.Generator().manual_seed(0), {}
    for k, name in enumerate(layers(unet)):
        shape, r = unet.get_submodule(name).weight.shape, 1 + k % 4
        A, B = torch.randn(r, *shape[1:], generator=g), torch.randn(shape[0], r, generator=g)
        factors[name] = (A, B if len(shape) == 2 else B[:, :, None, None])
    monkeypatch.setattr("semu_diffusion.diffusion.kohya.adapted_parts", lambda *_: {"unet": unet})
    monkeypatch.setattr("semu_diffusion.diffusion.kohya.lora_factors", lambda *_: factors)
    found = kohya_layers(pipes[kind], everything=everything)
    assert sorted(found.left_out) == ([] if everything else sorted(outside))
    state = readers._maybe_map_sgm_blocks_to_diffusers(kohya_state(found.factors), unet.config)
    state, _ = readers._convert_non_diffusers_lora_to_diffusers(state)
    read = convert_unet_state_dict_to_peft({k.removeprefix("unet."): v for k, v in state.items()})
    names = {key.rsplit(".lora_", 1)[0] for key in read}
    assert names == set(factors) - set(found.left_out)
    for name in names:
        A, B = (read[f"{name}.lora_{part}.weight"] for part in "AB")
        assert torch.equal(A, factors[name][0])
        torch.testing.assert_close(B / len(A), factors[name][1])


# ------------------------------------------------------------------------------------------------- FLUX

FLUX_DOUBLE = ("mod.lin", "attn.qkv", "attn.proj", "mlp.0", "mlp.2")
FLUX_SINGLE = ("linear1", "linear2", "modulation.lin")


@pytest.fixture(scope="module")
def flux():
    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


def test_flux_has_the_original_names_and_none_is_left(flux):
    """ComfyUI looks for lora_unet_ and the original name, as sd-scripts writes it."""
    double = {f"double_blocks.{k}.{side}_{name}" for k in range(19) for side in ("img", "txt") for name in FLUX_DOUBLE}
    single = {f"single_blocks.{k}.{name}" for k in range(38) for name in FLUX_SINGLE}
    members = flux_members([name for name in layers(flux) if BLOCKS.match(name)])
    assert set(members) == {f"lora_unet_{name.replace('.', '_')}" for name in double | single}
    inside = [layer for joined in members.values() for layer in joined]
    assert sorted(inside) == sorted(name for name in layers(flux) if BLOCKS.match(name))
    assert len(inside) == 494


@pytest.mark.parametrize("ranks", [(1, 2, 3), (2, 2, 2), (3, 0, 1)], ids=str)
def test_diffusers_reads_the_flux_file_as_the_same_updates(flux, ranks):
    """Of the first blocks; rank 0 stands for a layer that is not adapted."""
    g = torch.Generator().manual_seed(0)
    blocks = [n for n in layers(flux) if re.match(r"(single_)?transformer_blocks\.0\.", n)]
    sizes = {name: flux.get_submodule(name).weight.shape for name in blocks}
    factors = {}
    for k, (name, (m, n)) in enumerate(sizes.items()):
        r = ranks[k % 3]
        if r:
            factors[name] = (torch.randn(r, n, generator=g), torch.randn(m, r, generator=g))
    read = FluxPipeline.lora_state_dict(kohya_state(flux_layers(factors)))
    known = {f"transformer.{name}.lora_{part}.weight" for name in blocks for part in "AB"}
    assert set(read) <= known
    for name, (m, n) in sizes.items():
        A, B = (read.get(f"transformer.{name}.lora_{part}.weight") for part in "AB")
        x = torch.randn(4, n, generator=g)
        expected = x @ factors[name][0].T @ factors[name][1].T if name in factors else torch.zeros(4, m)
        found = torch.zeros(4, m) if A is None else x @ A.T @ B.T
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


# ----------------------------------------------------------------------------------- PixArt, and the rest

PIXART = (
    "pos_embed.proj", "proj_out", "adaln_single.linear", "caption_projection.linear_1", "caption_projection.linear_2",
    *(f"adaln_single.emb.{e}_embedder.linear_{k}" for e in ("timestep", "resolution", "aspect_ratio") for k in (1, 2)),
)  # fmt: skip


def test_pixart_has_the_names_that_comfyui_maps():
    with torch.device("meta"):
        model = PixArtTransformer2DModel(sample_size=128, num_layers=28, caption_channels=4096)
    blocks = (f"transformer_blocks.{k}.{name}" for k in range(28) for name in TRANSFORMER)
    ours = keys(SimpleNamespace(transformer=model), "transformer")
    assert ours == {f"transformer.{name}" for name in (*blocks, *PIXART)} and len(ours) == 291


@pytest.mark.parametrize(
    "family, message",
    [
        ("sd3", "agree on no kohya names for StableDiffusion3Pipeline; use --to diffusers, which ComfyUI reads"),
        ("flux", "read for a FLUX 3072 wide only; use --to diffusers"),
        ("classes", "agree on no kohya names for DDPMPipeline; use --to native"),
    ],
)
def test_a_file_that_would_have_no_effect_is_refused(tmp_path, family, message):
    pipe = load_family(build_family(family, tmp_path / "base"))
    with pytest.raises(ValueError, match=message):
        export(pipe, tmp_path / "out", "kohya")
    assert not (tmp_path / "out").exists()


def test_text_encoders_without_names_are_refused():
    for kind, part in (("flux", "text_encoder_2"), ("pixart", "text_encoder"), ("sd1", "text_encoder_2")):
        with pytest.raises(ValueError, match=f"no layers of a {part} of"):
            kohya_names(SimpleNamespace(), kind)(part, "encoder.block.0.layer.0.SelfAttention.q")
