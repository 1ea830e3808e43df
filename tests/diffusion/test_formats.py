"""The LoRA beside an adapter is the same adapter, for plain diffusers that knows nothing of this package."""

import json
import subprocess
import sys

import pytest
import torch
from adapters import batch, predict_noise, put_on_unet
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from semu_diffusion import load_adapter, load_pipeline, save_lora, set_scale
from semu_diffusion.adapter.weights import LORA, save_adapter

PLAIN = """
import json, sys
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

model, folder, batch, result = sys.argv[1:]
inputs = load_file(batch)
pipe = DiffusionPipeline.from_pretrained(model)
unet = lambda: pipe.unet(inputs["x"], inputs["t"], inputs["context"]).sample
with torch.no_grad():
    base = unet()
    pipe.load_lora_weights(folder)
    erased = unet()
    pipe.unload_lora_weights()
    after = unet()
assert torch.equal(base, after)
assert not any(name.startswith("semu") for name in sys.modules)
save_file({"base": base, "erased": erased}, result)
"""


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory):
    """A folder with both files of an adapter; base and erased predictions."""
    folder, pipe = tmp_path_factory.mktemp("adapter"), load_pipeline(str(tiny_model))
    base = predict_noise(pipe)
    put_on_unet(pipe)
    save_adapter(pipe.unet, folder, about={"base_model": str(tiny_model), "concept": ["cigarette"]})
    save_lora(pipe, folder, precision="fp32")
    erased = predict_noise(pipe)
    assert (erased - base).abs().max() > 0.1
    return folder, base, erased


def test_the_adapter_comes_back_exactly(tiny_model, saved):
    folder, base, erased = saved
    for path in (folder, folder / "adapter_model.safetensors"):
        pipe = load_pipeline(str(tiny_model))
        config = load_adapter(pipe, path)
        assert config.about["concept"] == ["cigarette"]
        assert config.about["base_model"] == tiny_model.name  # no folder of this machine
        assert torch.equal(predict_noise(pipe), erased)
        set_scale(pipe, 0.0)
        assert torch.equal(predict_noise(pipe), base)


def test_the_lora_is_the_adapter(tiny_model, saved):
    folder, base, erased = saved
    pipe = load_pipeline(str(tiny_model))
    pipe.load_lora_weights(folder)
    torch.testing.assert_close(predict_noise(pipe), erased, rtol=0, atol=1e-5)
    pipe.unload_lora_weights()
    assert torch.equal(predict_noise(pipe), base)
    pipe.load_lora_weights(folder, weight_name=LORA)
    pipe.fuse_lora()
    torch.testing.assert_close(predict_noise(pipe), erased, rtol=0, atol=2e-5)


def test_strength_is_the_same_in_both(tiny_model, saved):
    folder, base, erased = saved
    pipe, plain = load_pipeline(str(tiny_model)), load_pipeline(str(tiny_model))
    load_adapter(pipe, folder, scale=0.5)
    plain.load_lora_weights(folder, adapter_name="gone")
    plain.set_adapters(["gone"], [0.5])
    torch.testing.assert_close(predict_noise(plain), predict_noise(pipe), rtol=0, atol=1e-5)
    assert (predict_noise(pipe) - erased).abs().max() > 0.01 and (predict_noise(pipe) - base).abs().max() > 0.01


def test_the_header_has_the_rank_of_every_layer(saved):
    folder, _, _ = saved
    with safe_open(folder / LORA, framework="pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    ranks = json.loads((folder / "adapter_config.json").read_text())["ranks"]
    assert len(set(ranks.values())) == 5
    found = {k.removeprefix("unet."): v for k, v in metadata.items() if k.startswith("unet.")}
    assert found["rank_pattern"] == found["alpha_pattern"] == {f"^{name}": r for name, r in ranks.items()}
    assert set(found["target_modules"]) == set(ranks)
    tensors = load_file(folder / LORA)
    assert {k: v.shape[0] for k, v in tensors.items() if "lora_A" in k} == {
        f"unet.{name}.lora_A.weight": r for name, r in ranks.items()
    }


def test_plain_diffusers_in_a_process_of_its_own(tiny_model, saved, tmp_path):
    folder, base, erased = saved
    save_file(batch(), tmp_path / "batch.safetensors")
    files = [str(p) for p in (tiny_model, folder, tmp_path / "batch.safetensors", tmp_path / "result.safetensors")]
    subprocess.run([sys.executable, "-c", PLAIN, *files], check=True, cwd=tmp_path)
    result = load_file(files[-1])
    torch.testing.assert_close(result["base"], base, rtol=0, atol=1e-6)
    torch.testing.assert_close(result["erased"], erased, rtol=0, atol=1e-5)
