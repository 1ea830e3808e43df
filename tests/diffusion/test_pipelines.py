"""The custom pipelines, loaded as users load them."""

from pathlib import Path

import pytest
import torch
from adapters import put_on
from diffusers import DiffusionPipeline
from peft import LoraConfig
from tiny_families import build_family

from semu_diffusion import draw, load_adapter, load_pipeline
from semu_diffusion.diffusion.pipeline import parts, save_adapters

PIPELINES = Path(__file__).parents[2] / "pipelines"
FILES = {"sd": "semu_stable_diffusion.py", "sdxl": "semu_stable_diffusion_xl.py"}


@pytest.fixture(scope="module", params=FILES)
def base(request, tiny_model, tmp_path_factory):
    """(custom pipeline, folder of the base model, folder of an eraser on all its parts)."""
    root = tmp_path_factory.mktemp(request.param)
    folder = tiny_model if request.param == "sd" else build_family("sdxl", root / "model")
    pipe = load_pipeline(str(folder), "cpu")
    for k, model in enumerate(parts(pipe).values()):
        put_on(model, k)
    return PIPELINES / FILES[request.param], folder, save_adapters(pipe, root / "eraser")


@pytest.fixture
def pipe(base):
    file, folder, eraser = base
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(file), trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_eraser("first", eraser)
    pipe.load_eraser("second", eraser)
    return pipe


def picture(pipe, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return pipe(
        "a cat", num_inference_steps=2, guidance_scale=3.0, generator=generator, output_type="pt", **kwargs
    ).images


def test_erase_is_the_adapter_at_that_strength(pipe, base):
    _, folder, eraser = base
    plain = load_pipeline(str(folder), "cpu")
    without = draw(plain, ["a cat"], [0], steps=2, guidance=3.0)
    load_adapter(plain, eraser, scale=0.5)
    half = draw(plain, ["a cat"], [0], steps=2, guidance=3.0)
    assert torch.equal(picture(pipe), without)
    torch.testing.assert_close(picture(pipe, erase={"first": 0.5}), half)
    torch.testing.assert_close(picture(pipe, erase={"first": 0.25, "second": 0.25}), half, rtol=0, atol=1e-4)
    assert torch.equal(picture(pipe, erase={"first": 0.0}), without)
    assert (half - without).abs().max() > 1e-2


def test_a_lora_beside_it_stays_on(pipe):
    lora = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
    pipe.unet.add_adapter(lora, "style")
    styled = picture(pipe)
    erased = picture(pipe, erase={"first": 0.5})
    pipe.unet.delete_adapters("style")
    assert (picture(pipe) - styled).abs().max() > 1e-3
    assert (picture(pipe, erase={"first": 0.5}) - erased).abs().max() > 1e-3


def test_errors(pipe, base):
    with pytest.raises(ValueError, match="no adapter named 'third'; loaded: first, second"):
        picture(pipe, erase={"third": 1.0})
    with pytest.raises(ValueError, match="negative"):
        picture(pipe, erase={"first": -1.0})
    with pytest.raises(ValueError, match="has an adapter named 'first' already"):
        pipe.load_eraser("first", base[2])
