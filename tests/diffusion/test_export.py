"""Other formats hold the same update; the truth is W + U R V^T in float64."""

import copy

import pytest
import torch
from adapters import predict_noise, put_on_unet
from diffusers import DiffusionPipeline

from semu_diffusion import load_pipeline
from semu_diffusion.adapter.base_layers import matrix_shape
from semu_diffusion.adapter.shrink import shrink
from semu_diffusion.adapter.updates import compress
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.diffusion.export import export


@pytest.fixture
def adapted(tiny_model):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on_unet(pipe)
    return pipe


@torch.no_grad()
def truth(pipe, path):
    """The base model with W + U R V^T, added up in float64."""
    plain = load_pipeline(str(path), "cpu")
    for name, layer in semu_layers(pipe.unet).items():
        U, R, V = (getattr(layer, f"semu_{part}")["default"].double() for part in "URV")
        weight = plain.unet.get_submodule(name).weight
        weight.copy_((weight.double() + (U @ R @ V.T).reshape(weight.shape)).float())
    return predict_noise(plain)


def test_the_adapter_is_the_truth(adapted, tiny_model):
    torch.testing.assert_close(predict_noise(adapted), truth(adapted, tiny_model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form, uniform", [("diffusers", False), ("diffusers", True), ("kohya", False)])
def test_lora_formats_in_plain_diffusers(adapted, tiny_model, tmp_path, form, uniform):
    file = export(adapted, tmp_path, form, uniform, precision="fp32", everything=True)
    plain = DiffusionPipeline.from_pretrained(tiny_model)
    base = predict_noise(plain)
    plain.load_lora_weights(tmp_path, weight_name=file.name)
    expected = truth(adapted, tiny_model)
    assert (base - expected).abs().max() > 1e-2
    torch.testing.assert_close(predict_noise(plain), expected, rtol=0, atol=1e-5)


def test_kohya_names(adapted, tmp_path):
    from safetensors.torch import load_file

    state = load_file(export(adapted, tmp_path, "kohya", everything=True))
    assert {k.rsplit(".", 1)[1] if k.endswith("alpha") else k.split(".", 1)[1] for k in state} == {
        "alpha", "lora_down.weight", "lora_up.weight",
    }  # fmt: skip
    assert all(k.startswith("lora_unet_") and "." not in k.split(".", 1)[0] for k in state)
    assert {v.item() for k, v in state.items() if k.endswith("alpha")} == {1.0}


def test_merged_folder_is_a_plain_model(adapted, tiny_model, tmp_path):
    expected = truth(adapted, tiny_model)
    export(adapted, tmp_path / "merged", "merged")
    plain = DiffusionPipeline.from_pretrained(tmp_path / "merged")
    assert not any("semu" in name or "base_layer" in name for name in plain.unet.state_dict())
    torch.testing.assert_close(predict_noise(plain), expected, rtol=0, atol=1e-5)


def test_unknown_format(adapted, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'pt'; known: native, diffusers"):
        export(adapted, tmp_path / "x", "pt")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999])
def test_compress_is_the_truncated_svd_of_the_update(energy):
    U, R, V = torch.randn(12, 6), torch.randn(6, 6) * torch.logspace(0, -3, 6), torch.randn(20, 6)
    basis, core = compress(U, R, V, energy)
    left, S, right = torch.linalg.svd((U @ R @ V.T).double(), full_matrices=False)
    shares = S.square().cumsum(0) / S.square().sum()
    r = next(k + 1 for k in range(6) if shares[k] >= energy)
    assert basis.rank == r
    best = left[:, :r] * S[:r] @ right[:r]
    torch.testing.assert_close((basis.U @ core @ basis.V.T).double(), best, rtol=0, atol=1e-4 * S[0].item())
    torch.testing.assert_close(basis.U.T @ basis.U, torch.eye(r), rtol=0, atol=1e-5)


def test_compress_adapter_keeps_the_output(adapted):
    wide = copy.deepcopy(adapted)
    ranks = dict(adapted.unet.peft_config["default"].ranks)
    for layer in semu_layers(wide.unet).values():  # the same update in a basis twice as wide
        U, R, V = (getattr(layer, f"semu_{part}")["default"] for part in "URV")
        m, n = matrix_shape(layer.get_base_layer())
        more = [torch.cat([Q, torch.randn(size, Q.shape[1])], 1) for Q, size in ((U, m), (V, n))]
        layer.set_basis("default", more[0], more[1], torch.block_diag(R.detach(), torch.zeros_like(R)))
    shrink(wide.unet, 1 - 1e-9)
    assert wide.unet.peft_config["default"].ranks == ranks
    torch.testing.assert_close(predict_noise(wide), predict_noise(adapted), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="energy"):
        shrink(wide.unet, 0.0)


@pytest.mark.parametrize("form", ["semu", "diffusers", "kohya"])
def test_inspect_tells_format_ranks_and_facts(adapted, tmp_path, form):
    from semu_diffusion.adapter.weights import save_adapter
    from semu_diffusion.diffusion.blocks import depth_bars
    from semu_diffusion.hub.contents import read_contents

    about = {"concept": ["x"]}
    file = tmp_path
    if form == "semu":
        save_adapter(adapted.unet, tmp_path, about=about)
    else:
        file = export(adapted, tmp_path, form, everything=True)
    contents = read_contents(file)
    true = {n: layer.r["default"] for n, layer in semu_layers(adapted.unet).items()}
    assert contents.format == form
    assert sorted(contents.ranks.values()) == sorted(true.values())
    assert (contents.about.get("concept") == ["x"]) == (form == "semu")
    assert sum(count for _, count, _ in depth_bars(contents.ranks)) == len(true)


def test_inspect_refuses_other_files(tmp_path):
    from safetensors.torch import save_file

    from semu_diffusion.hub.contents import read_contents

    save_file({"weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="neither a SEMU adapter nor a LoRA"):
        read_contents(tmp_path / "x.safetensors")
