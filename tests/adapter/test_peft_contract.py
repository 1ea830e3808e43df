"""What PEFT promises of every method, as a table over our cases: behaviours of its common test suite, said again.

`test_adapter_behaviour.py` has those that are about the adapter itself: merging, switching off, training, files.
"""

import copy
import json
import re

import pytest
import torch
from models import bare, build, inputs, loss, predict
from peft import (
    PeftModel,
    get_layer_status,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from peft.utils import ModulesToSaveWrapper
from torch import nn

from semu_diffusion.adapter import SemuConfig, SemuConv2d, SemuLayer, SemuLinear, find_layers
from semu_diffusion.adapter.weights import load_adapter, save_adapter, semu_layers

TEST_CASES = [
    ("mlp, all layers", "mlp", {}),
    ("mlp, by name", "mlp", {"target_modules": ["first", "head"]}),
    ("mlp, one left out", "mlp", {"exclude_modules": ["second"]}),
    ("cnn, all layers", "cnn", {}),
    ("cnn, grouped", "cnn", {"target_modules": ["grouped", "strided"]}),
    ("unet, cross-attention", "unet", {"target_modules": r".*attn2\.to_(q|k|v|out\.0)"}),
    ("text encoder", "text", {"target_modules": ["q_proj", "fc1"]}),
]
CASES = pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in TEST_CASES])
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def config_of(case, **more):
    """The config with ranks 1, 2, 3, 1, ... of the layers that the case targets."""
    layers = find_layers(build(case[1]), SemuConfig(**case[2], **more))
    return SemuConfig(**case[2], **more, ranks={name: 1 + k % 3 for k, name in enumerate(layers)})


def fill(model, adapter="default"):
    """Random U, V and R for every layer: an adapter that does something."""
    g = torch.Generator().manual_seed(len(adapter))
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer) and adapter in m.r):
        U, V, R = (getattr(layer, f"semu_{part}")[adapter] for part in "UVR")
        layer.set_basis(adapter, *(0.3 * torch.randn(t.shape, generator=g) for t in (U, V, R)))
    return model


def adapted(case, base=None, **options):
    return fill(get_peft_model(base or build(case[1]), config_of(case), **options))


def with_second(case):
    model = adapted(case)
    model.add_adapter("more", config_of(case))
    return fill(model, "more")


def parts_of(model, adapter="default"):
    """dtype of every U, R and V."""
    layers = semu_layers(model, adapter).values()
    return {getattr(layer, f"semu_{p}")[adapter].dtype for layer in layers for p in "URV"}


@torch.no_grad()
def output(model, dtype=None):
    return predict(model, dtype=dtype)


# ---------------------------------------------------------------------------------------------- layers


@CASES
def test_layers_say_how_wide_they_are(case):
    for layer in semu_layers(adapted(case)).values():
        base = layer.get_base_layer()
        if isinstance(base, nn.Conv2d):
            assert (layer.in_features, layer.out_features) == (base.in_channels, base.out_channels)
        else:
            assert (layer.in_features, layer.out_features) == (base.in_features, base.out_features)


@CASES
def test_status_of_layers_and_model(case):
    model = adapted(case)
    status, layers = get_model_status(model), get_layer_status(model)
    assert len(layers) == status.num_adapter_layers == len(config_of(case).ranks)
    assert status.adapter_model_type == "SemuModel" and status.peft_types == {"default": "SEMU"}
    assert status.enabled and status.active_adapters == ["default"] and status.merged_adapters == []
    assert all(layer.available_adapters == ["default"] and layer.requires_grad["default"] for layer in layers)
    assert status.trainable_params == sum(r * r for r in config_of(case).ranks.values())
    with model.disable_adapter():
        assert not get_model_status(model).enabled
    model.merge_adapter()
    assert get_model_status(model).merged_adapters == ["default"]


@CASES
def test_another_name_of_the_adapter(case):
    model = get_peft_model(build(case[1]), config_of(case), adapter_name="test-adapter")
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names and all(name.endswith(".semu_R.test-adapter") for name in names)


# -------------------------------------------------------------------------------------------- precision


@CASES
@HALVES
def test_in_half_precision_without_autocast(case, dtype):
    full = output(adapted(case))
    model = adapted(case, build(case[1]).to(dtype), autocast_adapter_dtype=False)
    assert parts_of(model) == {dtype}
    found = output(model, dtype)
    assert found.dtype == dtype and found.isfinite().all()
    assert (found.float() - full).norm() < 0.1 * full.norm()
    loss(model, dtype=dtype).backward()
    grads = [layer.semu_R["default"].grad for layer in semu_layers(model).values()]
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


@CASES
@HALVES
def test_in_half_precision_the_adapter_is_fp32_by_default(case, dtype):
    model = adapted(case, build(case[1]).to(dtype))
    assert parts_of(model) == {torch.float32}
    model.add_adapter("narrow", config_of(case), autocast_adapter_dtype=False)
    assert parts_of(model, "narrow") == {dtype} and parts_of(model) == {torch.float32}


@CASES
@pytest.mark.parametrize("autocast", [True, False])
def test_loading_in_half_precision(case, autocast, tmp_path):
    adapted(case).save_pretrained(tmp_path)
    base = build(case[1]).to(torch.bfloat16)
    model = PeftModel.from_pretrained(base, tmp_path, autocast_adapter_dtype=autocast)
    assert parts_of(model) == {torch.float32 if autocast else torch.bfloat16}
    assert output(model, torch.bfloat16).dtype == torch.bfloat16
    model.load_adapter(tmp_path, "other", autocast_adapter_dtype=autocast)
    assert parts_of(model, "other") == parts_of(model)


@CASES
def test_merged_in_half_precision(case):
    model = adapted(case, build(case[1]).half())
    on = output(model, torch.float16).float()
    merged = model.merge_and_unload()
    assert {p.dtype for p in merged.parameters()} == {torch.float16}
    assert (output(merged, torch.float16).float() - on).norm() < 0.02 * on.norm()


# ------------------------------------------------------------------------------------- several adapters


@CASES
def test_merging_one_of_several_and_all(case):
    one, other = output(adapted(case)), with_second(case)
    assert torch.equal(output(other), one)
    other.set_adapter("more")
    second = output(other)
    merged = copy.deepcopy(other).merge_and_unload(adapter_names=["default"])
    torch.testing.assert_close(output(merged), one, rtol=1e-4, atol=1e-5)
    merged = copy.deepcopy(other).merge_and_unload()  # the active one
    torch.testing.assert_close(output(merged), second, rtol=1e-4, atol=1e-5)
    assert (one - second).abs().max() > 1e-3


@CASES
def test_gradients_follow_the_active_adapter(case):
    model = with_second(case)
    trained = lambda: {n.rsplit(".", 1)[1] for n, p in model.named_parameters() if p.requires_grad}  # noqa: E731
    assert trained() == {"default"}
    model.set_adapter("more")
    assert trained() == {"more"}
    model.set_adapter("more", inference_mode=True)
    assert trained() == set()
    model.set_requires_grad("default")
    assert trained() == {"default"}


@CASES
def test_leaving_the_disabled_state_restores_what_was_active(case):
    model = with_second(case)
    model.set_adapter("more")
    on = output(model)
    with model.disable_adapter():
        assert torch.equal(output(model), output(build(case[1])))
    assert model.active_adapter == "more" and torch.equal(output(model), on)
    assert {n.rsplit(".", 1)[1] for n, p in model.named_parameters() if p.requires_grad} == {"more"}


@CASES
def test_a_deleted_adapter_leaves_nothing(case):
    model = with_second(case)
    model.delete_adapter("default")
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer)):
        for kept in (layer.r, layer.scaling, layer.dtypes, layer.semu_U, layer.semu_R, layer.semu_V):
            assert list(kept) == ["more"]
    with pytest.raises(ValueError, match="default does not exist"):
        model.delete_adapter("default")


@CASES
def test_selected_adapters_are_saved(case, tmp_path):
    model = with_second(case)
    model.save_pretrained(tmp_path, selected_adapters=["more"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "more"]
    assert "library_name: peft" in (tmp_path / "README.md").read_text()
    loaded = PeftModel.from_pretrained(build(case[1]), tmp_path / "more", adapter_name="more")
    model.set_adapter("more")
    assert torch.equal(output(loaded), output(model))
    with pytest.raises(ValueError, match="invalid `selected_adapters`"):
        model.save_pretrained(tmp_path, selected_adapters=["nobody"])


@CASES
def test_two_from_files(case, tmp_path):
    model = with_second(case)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(case[1]), tmp_path)
    loaded.load_adapter(tmp_path / "more", "more")
    for name in ("default", "more", "default"):
        model.set_adapter(name)
        loaded.set_adapter(name)
        assert torch.equal(output(loaded), output(model))


@CASES
def test_a_batch_of_several_adapters_is_refused(case):
    """PEFT drops the argument for methods that do not look at it, and answers with the active adapter."""
    model = with_second(case).eval()
    with pytest.raises(ValueError, match="SEMU has no adapter per sample"):
        model(*inputs(bare(model)), adapter_names=["default", "more"])


# -------------------------------------------------------------------------------- memory, checkpointing


@CASES
def test_injection_on_the_meta_device(case):
    model = inject_adapter_in_model(config_of(case), build(case[1]), low_cpu_mem_usage=True)
    assert {p.device.type for n, p in model.named_parameters() if "semu_R" in n} == {"meta"}
    assert {p.device.type for n, p in model.named_parameters() if "semu_" not in n} == {"cpu"}


@pytest.mark.parametrize("case", TEST_CASES[-2:], ids=lambda case: case[0])
def test_gradients_through_checkpointing(case):
    model = adapted(case).train()
    loss(model).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if case[1] == "unet":
        bare(model).enable_gradient_checkpointing()
    else:
        bare(model).gradient_checkpointing_enable()
    loss(model).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected.pop(name), rtol=1e-4, atol=1e-6)
    assert not expected


# ------------------------------------------------------------------------------------- modules_to_save

WHOLE = [("mlp", "head"), ("cnn", "bn"), ("unet", "conv_out"), ("text", "final_layer_norm")]


@pytest.mark.parametrize("name, module", WHOLE)
def test_modules_to_save_are_trained_saved_and_loaded(name, module, tmp_path):
    case = ("", name, {})
    model = fill(get_peft_model(build(name), config_of(case, modules_to_save=[module])))
    wrapped = [n for n, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)]
    assert [n.rsplit(".", 1)[1] for n in wrapped] == [module]
    assert module not in model.peft_config["default"].ranks
    with torch.no_grad():
        for n, p in model.named_parameters():
            if f"{module}.modules_to_save" in n:
                assert p.requires_grad
                p.add_(0.1)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == [module]
    loaded = PeftModel.from_pretrained(build(name), tmp_path)
    assert torch.equal(output(loaded), output(model))
    with model.disable_adapter():
        assert torch.equal(output(model), output(build(name)))
    merged = model.merge_and_unload()
    torch.testing.assert_close(output(merged), output(loaded), rtol=1e-4, atol=1e-5)


def test_our_own_files_refuse_modules_to_save_in_one_line(tmp_path):
    case = ("", "mlp", {})
    model = fill(get_peft_model(build("mlp"), config_of(case, modules_to_save=["head"])))
    with pytest.raises(ValueError, match=re.escape("(head), and U, R and V are not all of it; save it")):
        save_adapter(model, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    model.save_pretrained(tmp_path / "theirs")
    target = build("mlp")
    with pytest.raises(ValueError, match=r"load .* by PeftModel.from_pretrained") as error:
        load_adapter(target, tmp_path / "theirs")
    assert "\n" not in str(error.value) and not any(isinstance(m, SemuLayer) for m in target.modules())


def test_a_targeted_module_that_is_saved_whole_is_left_to_peft():
    layers = find_layers(build("text"), SemuConfig(modules_to_save=["mlp"]))
    assert layers and not any(".mlp." in name for name in layers)


# ------------------------------------------------------------------------------------------ single layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_cast_adapter_keeps_its_type_through_a_new_basis(dtype):
    for layer in (SemuLinear(nn.Linear(6, 5), "default", r=2), SemuConv2d(nn.Conv2d(3, 4, 3), "default", r=2)):
        layer.cast("default", dtype)
        m, n = layer.base_layer.weight.shape[0], layer.base_layer.weight[0].numel()
        layer.set_basis("default", torch.randn(m, 3), torch.randn(n, 3), torch.randn(3, 3))
        assert {getattr(layer, f"semu_{p}")["default"].dtype for p in "URV"} == {dtype}


def test_state_dicts_hold_the_type_of_the_adapter():
    case = TEST_CASES[0]
    model = adapted(case, build("mlp").to(torch.bfloat16), autocast_adapter_dtype=False)
    assert {v.dtype for v in get_peft_model_state_dict(model).values()} == {torch.bfloat16}
