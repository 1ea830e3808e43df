"""Adapters on the UNet and the text encoders, in every format; the truth is W + U R V^T in float64."""

import json

import pytest
import torch
from adapters import CAPTION, outputs, put_on, same, truth
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file
from tiny_families import build_family

from semu_diffusion import draw, load_adapter, load_pipeline, set_scale
from semu_diffusion.adapter.weights import CONFIG, LORA, WEIGHTS, semu_layers
from semu_diffusion.diffusion.export import export, shrink_parts
from semu_diffusion.diffusion.pipeline import save_adapters, switch_adapters


@pytest.fixture(scope="module")
def adapted(tiny_model):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    put_on(pipe.text_encoder, 1)
    return pipe


@pytest.fixture(scope="module")
def expected(adapted, tiny_model):
    base, true = outputs(load_pipeline(str(tiny_model), "cpu")), truth(adapted, tiny_model)
    assert all((base[k] - true[k]).abs().max() > 1e-2 for k in base)
    return true


@pytest.fixture(scope="module")
def saved(adapted, tmp_path_factory):
    return save_adapters(adapted, tmp_path_factory.mktemp("adapter"), {"concept": ["cigarette"]})


def test_native_folder(adapted, expected, saved, tiny_model):
    assert sorted(p.relative_to(saved).as_posix() for p in saved.rglob("*.*")) == sorted(
        [WEIGHTS, CONFIG, f"text_encoder/{WEIGHTS}", f"text_encoder/{CONFIG}"]
    )
    pipe = load_pipeline(str(tiny_model), "cpu")
    base = outputs(pipe)
    assert load_adapter(pipe, saved).about["concept"] == ["cigarette"]
    same(outputs(pipe), expected)
    for off in (lambda: set_scale(pipe, 0.0), lambda: (set_scale(pipe, 1.0), switch_adapters(pipe, False))):
        off()
        assert all(torch.equal(v, base[k]) for k, v in outputs(pipe).items())
    switch_adapters(pipe, True)
    same(outputs(pipe), expected)


def test_diffusers_lora(adapted, expected, tiny_model, tmp_path):
    for uniform in (False, True):
        export(adapted, tmp_path, "diffusers", uniform, precision="fp32")
        plain = DiffusionPipeline.from_pretrained(tiny_model)
        plain.load_lora_weights(tmp_path)
        same(outputs(plain), expected)
    names = {key.split(".", 1)[0] for key in load_file(tmp_path / LORA)}
    assert names == {"unet", "text_encoder"}
    assert all(".text_model.encoder" in k for k in load_file(tmp_path / LORA) if k.startswith("text"))


def test_kohya(adapted, expected, tiny_model, tmp_path):
    file = export(adapted, tmp_path, "kohya", precision="fp32", everything=True)
    plain = DiffusionPipeline.from_pretrained(tiny_model)
    plain.load_lora_weights(tmp_path, weight_name=file.name)
    same(outputs(plain), expected)
    text = {k.split(".")[0] for k in load_file(file) if k.startswith("lora_te")}
    assert "lora_te_text_model_encoder_layers_1_self_attn_out_proj" in text and len(text) == 12


@pytest.mark.parametrize("form", ["merged", "single-file"])
def test_whole_models(saved, expected, tiny_model, tmp_path, form):
    pipe = load_pipeline(str(tiny_model), "cpu")
    load_adapter(pipe, saved)
    path = export(pipe, tmp_path / "out", form)
    if form == "merged":
        plain = DiffusionPipeline.from_pretrained(path)
    else:
        plain = StableDiffusionPipeline.from_single_file(path, config=str(tiny_model), local_files_only=True)
    same(outputs(plain), expected)
    same(outputs(pipe), expected)  # the pipeline itself, folded


def test_compression_of_all_parts(saved, tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    load_adapter(pipe, saved)
    before, after = shrink_parts(pipe, 0.5).ranks
    assert after < before
    export(pipe, tmp_path, "native", precision="fp32")
    again = load_pipeline(str(tiny_model), "cpu")
    load_adapter(again, tmp_path)
    same(outputs(again), outputs(pipe))


def test_text_encoder_alone(tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.text_encoder)
    true = truth(pipe, tiny_model)
    (tmp_path / WEIGHTS).write_text("of an earlier adapter")
    save_adapters(pipe, tmp_path)
    assert not (tmp_path / WEIGHTS).exists()
    again = load_pipeline(str(tiny_model), "cpu")
    load_adapter(again, tmp_path)
    same(outputs(again), true)


def test_a_broken_part_leaves_the_pipeline_alone(saved, tiny_model, tmp_path):
    import shutil

    shutil.copytree(saved, tmp_path / "a")
    (tmp_path / "a" / "text_encoder" / WEIGHTS).unlink()
    pipe = load_pipeline(str(tiny_model), "cpu")
    with pytest.raises(ValueError, match="no adapter at .*text_encoder"):
        load_adapter(pipe, tmp_path / "a")
    shutil.copytree(saved / "text_encoder", tmp_path / "a" / "text_encoder_2")
    shutil.copy(saved / "text_encoder" / WEIGHTS, tmp_path / "a" / "text_encoder")
    with pytest.raises(ValueError, match="for text_encoder_2, which StableDiffusionPipeline lacks"):
        load_adapter(pipe, tmp_path / "a")
    assert not semu_layers(pipe.unet) and not semu_layers(pipe.text_encoder)
    with pytest.raises(ValueError, match="no SEMU adapter named 'other'"):
        set_scale(pipe, 1.0, "other")


def test_two_text_encoders(tmp_path):
    """SDXL: LoRA and kohya files hold exactly the factors, under the names of both encoders."""
    base = build_family("sdxl", tmp_path / "base")
    pipe = load_pipeline(str(base), "cpu")
    for k, part in enumerate((pipe.unet, pipe.text_encoder, pipe.text_encoder_2)):
        put_on(part, k, r".*(attn|fc).*")
    picture = draw(pipe, [CAPTION], [0], steps=2)
    export(pipe, tmp_path / "out", "diffusers", precision="fp32")
    kohya_file = export(pipe, tmp_path / "out", "kohya", precision="fp32")
    export(pipe, tmp_path / "out", "native")
    kohya = {k.split("_text_model")[0] for k in load_file(kohya_file) if k.startswith("lora_te")}
    assert kohya == {"lora_te1", "lora_te2"}
    assert json.loads((tmp_path / "out" / "text_encoder_2" / CONFIG).read_text())["ranks"]
    for file in (LORA, kohya_file.name, None):
        plain = load_pipeline(str(base), "cpu")
        if file:
            plain.load_lora_weights(tmp_path / "out", weight_name=file)
        else:
            load_adapter(plain, tmp_path / "out")
        assert (draw(plain, [CAPTION], [0], steps=2) - picture).abs().max() < 1 / 255
    assert (draw(load_pipeline(str(base), "cpu"), [CAPTION], [0], steps=2) - picture).abs().max() > 1e-2
