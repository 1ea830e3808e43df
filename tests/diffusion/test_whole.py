"""Damaged and unusual model folders: each ends in one line, and no code in them runs."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from tiny import QUICK, flags

from semu_diffusion.diffusion import load_pipeline
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.whole import check_whole

UNET = "unet/diffusion_pytorch_model.safetensors"
EVIL = "open({!r}, 'w').write('ran')\nclass Mine: pass\n"


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def nine_channels(folder):
    tensors = load_file(folder / UNET)
    tensors["conv_in.weight"] = torch.randn(len(tensors["conv_in.weight"]), 9, 3, 3)
    save_file(tensors, folder / UNET)
    edit(folder / "unet" / "config.json", in_channels=9)


def pickled(folder):
    (folder / UNET).unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")


def with_code(folder, file, kind):
    (folder / file).write_text(EVIL.format(str(folder / "ran")))
    part, _, name = file.rpartition("/")
    edit(folder / "model_index.json", **{part or "_class_name": [name.removesuffix(".py"), kind]})


DAMAGE = {
    "another class": (
        lambda f: edit(f / "model_index.json", _class_name="MyPipeline"),
        "names no pipeline of diffusers",
    ),
    "code": (lambda f: with_code(f, "pipeline.py", "Mine"), "names no pipeline of diffusers"),
    "code of a unet": (lambda f: with_code(f, "unet/mine.py", "Mine"), "custom code"),
    "code of a scheduler": (lambda f: with_code(f, "scheduler/mine.py", "Mine"), "custom code"),
    "index null": (lambda f: (f / "model_index.json").write_text("null"), "names no pipeline of diffusers"),
    "index list": (lambda f: (f / "model_index.json").write_text("[1]"), "names no pipeline of diffusers"),
    "index cut": (lambda f: (f / "model_index.json").write_text('{"_class'), "not JSON"),
    "index empty": (lambda f: (f / "model_index.json").write_text("{}"), "names no pipeline of diffusers"),
    "index deep": (lambda f: (f / "model_index.json").write_text("[" * 10**5), "not JSON"),
    "no size": (lambda f: edit(f / "unet" / "config.json", sample_size=None), "set sample_size"),
    "nine channels": (nine_channels, "inpainting or editing"),
    "pickles": (pickled, "convert them"),
    "weights cut": (lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:3000]), "cannot load the model"),
    "no config": (lambda f: (f / "unet" / "config.json").unlink(), "cannot load the model"),
    "config list": (lambda f: (f / "unet" / "config.json").write_text("[]"), "holds no configuration"),
    "scheduler null": (lambda f: (f / "scheduler" / "scheduler_config.json").write_text("null"), "no configuration"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer is incomplete|cannot load the model"),
    "words list": (lambda f: (f / "vocabulary.json").write_text("[1]"), "two lists of words"),
    "words numbers": (lambda f: edit(f / "vocabulary.json", subjects=[1]), "two lists of words"),
    "words null": (lambda f: edit(f / "vocabulary.json", styles=None), "two lists of words"),
    "words text": (lambda f: edit(f / "vocabulary.json", styles="neon"), "two lists of words"),
    "words cut": (lambda f: (f / "vocabulary.json").write_text('{"subj'), "not JSON"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_model_is_one_line_and_leaves_nothing(case, tiny_model, tmp_path, semu):
    import re

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    damage, expected = DAMAGE[case]
    damage(folder)
    arguments = ["--concept", "cigarette", "--output", tmp_path / "out", "--model", folder, "--quiet", "--no-evaluate"]
    status, out, err = semu("erase", *arguments, *flags(**QUICK))
    lines = [line for line in err.splitlines() if "it/s" not in line]
    assert status == 2 and out == "" and len(lines) == 1 and re.search(expected, lines[0]), err
    assert not (tmp_path / "out").exists() and not (folder / "ran").exists() and "unexpected" not in err


def test_parts_that_need_a_picture_or_give_no_latents(tiny_model):
    pipe = load_pipeline(str(tiny_model), "cpu")
    check_whole(pipe)
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(ValueError, match=r"IP-Adapter.*unload_ip_adapter\(\)"):
        family_of(pipe)
    pipe = load_pipeline(str(tiny_model), "cpu")
    blocks = {f"{part}_block_out_channels": (8,) for part in ("encoder", "decoder")}
    pipe.vae = AutoencoderTiny(**blocks, num_encoder_blocks=(1,), num_decoder_blocks=(1,))
    with pytest.raises(ValueError, match="full autoencoder, AutoencoderKL; this is AutoencoderTiny"):
        family_of(pipe).encode_images(torch.rand(1, 3, 16, 16))
    pipe.tokenizer.model_max_length = 10**30
    with pytest.raises(ValueError, match="tokenizer is incomplete"):
        check_whole(pipe)
