"""What an erasure writes is small, and is what is left on the pipeline to be measured."""

import pytest
import torch
from adapters import outputs
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import QUICK

from semu_diffusion import erase, load_adapter, load_pipeline
from semu_diffusion.adapter import updates
from semu_diffusion.adapter.weights import LORA, WEIGHTS, semu_layers
from semu_diffusion.diffusion import EraseConfig, config


def data_bytes(file):
    data = file.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


@pytest.fixture(scope="module")
def erased(tiny_model, tmp_path_factory):
    """Name -> folder and erasure: as by default, and with all of it in fp32."""
    root = tmp_path_factory.mktemp("small")
    own = {"default": {}, "whole": {"compress": 1, "precision": "fp32"}}
    quick = {**QUICK, "geometry": "remain", "moment_records": 16}
    return {
        name: (root / name, erase(str(tiny_model), "cat", root / name, **quick, **more)) for name, more in own.items()
    }


@pytest.mark.parametrize("name", ["default", "whole"])
def test_the_file_is_what_is_measured(erased, tiny_model, name):
    folder, result = erased[name]
    again = load_pipeline(str(tiny_model), "cpu")
    about = load_adapter(again, folder).about
    expected, found = outputs(result.pipe), outputs(again)
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    assert result.facts["written"]["bytes"] == data_bytes(folder / WEIGHTS)
    assert (about["compress"], about["precision"]) == ((0.9, "int8") if name == "default" else (1.0, "fp32"))
    with safe_open(folder / LORA, "pt") as file:
        assert file.metadata()["semu.precision"] == ("fp16" if name == "default" else "fp32")
    dtype = torch.float16 if name == "default" else torch.float32
    assert {v.dtype for v in load_file(folder / LORA).values()} == {dtype}


def test_all_of_it_is_what_was_trained_and_the_default_is_smaller_by_what_is_told(erased):
    (_, small), (_, whole) = erased["default"], erased["whole"]
    assert whole.facts["written"]["error"] < 1e-12
    assert whole.facts["ranks"] == small.facts["ranks"] == whole.pipe.unet.peft_config["default"].ranks
    assert sum(small.pipe.unet.peft_config["default"].ranks.values()) < sum(whole.facts["ranks"].values())
    changed = total = 0.0
    for name, layer in semu_layers(whole.pipe.unet).items():
        truth = layer.get_delta_weight("default").double()
        own = semu_layers(small.pipe.unet).get(name)
        changed += (truth - (own.get_delta_weight("default").double() if own else 0)).square().sum()
        total += truth.square().sum()
    error = (changed / total).sqrt().item()
    assert small.facts["written"]["error"] == pytest.approx(error, rel=1e-3) and 1e-3 < error < 0.7
    assert small.facts["written"]["bytes"] < 0.5 * small.facts["written"]["bytes_trained"]


def test_bad_choices():
    for options, said in (
        ({"compress": 0}, r"compress must be in \(0, 1\]"),
        ({"precision": "int4"}, "int8, fp32, fp16, bf16"),
    ):
        with pytest.raises(ValueError, match=said):
            EraseConfig(concept=["cat"], **options)


def test_the_options_name_the_types_that_files_have():
    assert tuple(updates.STORED) == config.STORED
