"""The custom pipelines, loaded as users load them."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from test_formats import put_on

from semu_diffusion import draw, load_adapter, load_pipeline
from semu_diffusion.adapter.weights import save_adapter

FILE = Path(__file__).parents[1] / "pipelines" / "semu_stable_diffusion.py"


@pytest.fixture(scope="module")
def eraser(tiny_model, tmp_path_factory):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe)
    return save_adapter(pipe.unet, tmp_path_factory.mktemp("eraser"))


@pytest.fixture
def pipe(tiny_model, eraser):
    pipe = DiffusionPipeline.from_pretrained(tiny_model, custom_pipeline=str(FILE), trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_eraser("first", eraser)
    pipe.load_eraser("second", eraser)
    return pipe


def picture(pipe, **kwargs):
    generator = torch.Generator().manual_seed(0)
    return pipe(
        "a cat", num_inference_steps=2, guidance_scale=3.0, generator=generator, output_type="pt", **kwargs
    ).images


def test_erase_is_the_adapter_at_that_strength(pipe, tiny_model, eraser):
    plain = load_pipeline(str(tiny_model), "cpu")
    base = draw(plain, ["a cat"], [0], steps=2)
    load_adapter(plain, eraser, scale=0.5)
    half = draw(plain, ["a cat"], [0], steps=2)
    assert torch.equal(picture(pipe), base)
    torch.testing.assert_close(picture(pipe, erase={"first": 0.5}), half)
    torch.testing.assert_close(picture(pipe, erase={"first": 0.25, "second": 0.25}), half, rtol=0, atol=1e-4)
    assert torch.equal(picture(pipe, erase={"first": 0.0}), base)
    assert (half - base).abs().max() > 1e-2


def test_errors(pipe):
    with pytest.raises(ValueError, match="no eraser named 'third'; loaded: first, second"):
        picture(pipe, erase={"third": 1.0})
    with pytest.raises(ValueError, match="negative"):
        picture(pipe, erase={"first": -1.0})
