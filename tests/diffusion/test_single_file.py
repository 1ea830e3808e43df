"""The layout of the original code: diffusers' own readers turn our file back into the same weights."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils as readers
from safetensors.torch import load_file
from tiny import build
from tiny_families import build_family, load_family
from transformers import CLIPTextConfig, CLIPTextModel

from semu_diffusion import draw, load_pipeline
from semu_diffusion.diffusion.single_file import (
    SINGLE,
    check_single_file,
    save_single_file,
    single_file_state,
    unet_state,
)

CAPTION = "a picture of a cigarette in neon style"
SD1 = dict(cross_attention_dim=768, attention_head_dim=8)
SDXL = dict(
    block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    up_block_types=(*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"), cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
)  # fmt: skip


def as_openclip(pipe):
    """The pipeline with an OpenCLIP-like text encoder, as SD2 has one."""
    old = pipe.text_encoder
    encoder = CLIPTextModel(CLIPTextConfig(**{**old.config.to_dict(), "hidden_act": "gelu"}))
    encoder.load_state_dict(old.state_dict())
    pipe.text_encoder = encoder.eval()
    return pipe


@pytest.fixture(scope="module")
def pipes(tiny_model, tmp_path_factory):
    """sd1, sd2 and sdxl: (folder, pipeline)."""
    root = tmp_path_factory.mktemp("single")
    sd2, sdxl = build(root / "sd2", 1), build_family("sdxl", root / "sdxl")
    as_openclip(load_pipeline(str(sd2), "cpu")).save_pretrained(sd2)
    folders = {"sd1": tiny_model, "sd2": sd2, "sdxl": sdxl}
    return {name: (folder, load_family(folder)) for name, folder in folders.items()}


def equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_diffusers_readers_give_the_same_weights(pipes, tmp_path, kind):
    _, pipe = pipes[kind]
    state = load_file(save_single_file(pipe, tmp_path / SINGLE))
    assert not any("lora" in k or "semu" in k or "base_layer" in k for k in state)
    equal(readers.convert_ldm_unet_checkpoint(dict(state), pipe.unet.config), pipe.unet.state_dict())
    equal(readers.convert_ldm_vae_checkpoint(dict(state), pipe.vae.config), pipe.vae.state_dict())
    bare = lambda s: {k.removeprefix("text_model."): v for k, v in s.items()}  # noqa: E731
    if kind != "sd2":
        equal(bare(readers.convert_ldm_clip_checkpoint(dict(state))), bare(pipe.text_encoder.state_dict()))
    if kind != "sd1":
        encoder = pipe.text_encoder if kind == "sd2" else pipe.text_encoder_2
        prefix = "cond_stage_model.model." if kind == "sd2" else "conditioner.embedders.1.model."
        found = readers.convert_open_clip_checkpoint(encoder, dict(state), prefix)
        equal(bare(found), bare(encoder.state_dict()))
    size = sum(v.numel() for v in state.values())
    models = (m for m in pipe.components.values() if isinstance(m, torch.nn.Module))
    assert size == sum(p.numel() for m in models for p in m.state_dict().values())


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_from_single_file_draws_the_same_picture(pipes, tmp_path, kind):
    folder, pipe = pipes[kind]
    save_single_file(pipe, tmp_path / SINGLE)
    cls = StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline
    # The reader tells SDXL's two encoders apart by their widths, which are the same in this small pipeline.
    second = {"text_encoder_2": pipe.text_encoder_2} if kind == "sdxl" else {}
    again = cls.from_single_file(tmp_path / SINGLE, config=str(folder), local_files_only=True, **second)
    pictures = [draw(p, [CAPTION], [0], steps=2) for p in (pipe, again)]
    assert (pictures[0] - pictures[1]).abs().max() < 1 / 255


@pytest.mark.parametrize(
    "config, count, shapes",
    [
        (SD1, 686, {
            "input_blocks.0.0.weight": (320, 4, 3, 3),
            "input_blocks.3.0.op.weight": (320, 320, 3, 3),
            "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
            "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            "input_blocks.11.0.out_layers.3.weight": (1280, 1280, 3, 3),
            "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
            "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
            "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
            "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
            "time_embed.2.weight": (1280, 1280),
            "out.2.weight": (4, 320, 3, 3),
        }),
        (SDXL, 1680, {
            "label_emb.0.0.weight": (1280, 2816),
            "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
            "input_blocks.8.1.transformer_blocks.9.attn1.to_q.weight": (1280, 1280),
            "input_blocks.6.0.op.weight": (640, 640, 3, 3),
            "output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
            "output_blocks.5.2.conv.weight": (640, 640, 3, 3),
            "output_blocks.8.0.in_layers.2.weight": (320, 640, 3, 3),
        }),
    ],
    ids=["SD1", "SDXL"],
)  # fmt: skip
def test_names_and_shapes_of_the_real_models(config, count, shapes):
    with torch.device("meta"):
        state = unet_state(UNet2DConditionModel(**config))
    assert len(state) == count
    assert {k: tuple(state[k].shape) for k in shapes} == shapes


def test_diffusers_recognises_the_kinds(pipes):
    names = readers.CHECKPOINT_KEY_NAMES
    states = {kind: single_file_state(pipe) for kind, (_, pipe) in pipes.items()}
    assert names["clip"] in states["sd1"] and names["open_clip"] in states["sd2"]
    assert names["clip_sdxl"] in states["sdxl"] and names["open_clip_sdxl"] in states["sdxl"]


def test_half_precision(pipes, tmp_path):
    half = load_file(save_single_file(pipes["sd1"][1], tmp_path / SINGLE, torch.float16))
    assert {v.dtype for v in half.values()} == {torch.float16}


@pytest.mark.parametrize(
    "change, part, message",
    [
        (dict(padding_mode="reflect"), "unet", "cannot express unet.conv_in: a convolution with .* reflect padding"),
        (dict(dilation=(2, 2)), "unet", "cannot express unet.conv_in: a convolution with groups, dilation"),
        (dict(groups=2), "vae", "cannot express vae.encoder.conv_in: a convolution with groups"),
    ],
)
def test_convolutions_that_the_layout_cannot_hold(tiny_model, change, part, message):
    pipe = load_pipeline(str(tiny_model), "cpu")
    conv = pipe.unet.conv_in if part == "unet" else pipe.vae.encoder.conv_in
    for key, value in change.items():
        setattr(conv, key, value)
    with pytest.raises(ValueError, match=message):
        check_single_file(pipe)


def test_other_families_and_other_unets_are_refused(tmp_path, tiny_model):
    with pytest.raises(ValueError, match="that of Stable Diffusion 1, 2 and XL, not PixArt"):
        check_single_file(load_family(build_family("pixart", tmp_path / "pixart")))
    pipe = load_pipeline(str(tiny_model), "cpu")
    pipe.unet.encoder_hid_proj = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no place for unet.encoder_hid_proj.weight; use --to merged"):
        single_file_state(pipe)
