"""What an adapter must do on every kind of model: a flat table of cases crossed with behaviours, as in PEFT."""

import copy
import functools
import json
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from models import bare, build, loss, predict
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from semu_diffusion.adapter import SemuConfig, SemuConv2d, SemuLayer, SemuLinear, find_layers
from semu_diffusion.adapter.layer import make_layer
from semu_diffusion.adapter.subspace import Basis, find_bases, install_bases, truncate

TEST_CASES = [
    ("mlp, all layers", "mlp", {}),
    ("mlp, by name", "mlp", {"target_modules": ["first", "head"]}),
    ("mlp, by regex, full rank", "mlp", {"target_modules": r"second|head", "gamma": 1.0}),
    ("mlp, remain geometry", "mlp", {"geometry": "remain"}),
    ("cnn, all layers", "cnn", {}),
    ("cnn, one layer left out", "cnn", {"exclude_modules": ["head"], "max_rank": 2}),
    ("cnn, gamma by pattern", "cnn", {"gamma_pattern": {"grouped|dilated": 1.0}}),
    ("unet, all layers", "unet", {"max_rank": 4}),
    ("unet, cross-attention", "unet", {"target_modules": r".*attn2\.to_(q|k|v|out\.0)"}),
    ("text encoder", "text", {"target_modules": ["q_proj", "fc1"]}),
]
CASES = pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in TEST_CASES])
SMALL = pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in TEST_CASES if case[1] != "unet"])
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@functools.cache
def bases_of(name, text):
    model = build(name)
    return find_bases(model, SemuConfig(**json.loads(text)), lambda: loss(model).backward(), lambda: predict(model, 1))


def bases(case, adapter="default"):
    """The bases of a case; a further adapter has other, narrower ones."""
    found = bases_of(case[1], json.dumps(case[2]))
    if adapter == "default":
        return found
    return {k: Basis(b.U.flip(0)[:, :1], b.S[:1], b.V.flip(0)[:, :1]) for k, b in list(found.items())[::2]}


def config_of(case, adapter="default"):
    return SemuConfig(**case[2], ranks={name: basis.rank for name, basis in bases(case, adapter).items()})


def fill(model, adapter="default", size=0.3):
    """Random values for every R: an adapter that does something."""
    g = torch.Generator().manual_seed(len(adapter))
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer) and adapter in m.r):
        R = layer.semu_R[adapter]
        R.data = size * torch.randn(R.shape, generator=g)
    return model


def adapted(case, filled=True, model=None):
    """A PEFT model of the case, with U, V from its gradient, and R = 0 unless filled."""
    model = get_peft_model(build(case[1]) if model is None else model, SemuConfig(**case[2]))
    install_bases(model, bases(case))
    return fill(model) if filled else model


def with_second(case):
    """As `adapted`, with a second adapter called "more" on every other layer."""
    model = adapted(case)
    model.add_adapter("more", SemuConfig(**case[2], ranks={k: b.rank for k, b in bases(case, "more").items()}))
    install_bases(model, bases(case, "more"), "more")
    return fill(model, "more")


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_equal_states(one, other, **tolerance):
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], msg=lambda text, key=key: f"{key}: {text}", **tolerance)


@torch.no_grad()
def output(model, **kwargs):
    return predict(model, **kwargs)


def differ(a, b):
    return (a - b).abs().max() > 1e-3


# Start and training


@CASES
def test_starts_as_an_exact_no_op(case):
    model = adapted(case, filled=False)
    assert model.peft_config["default"].ranks == {name: basis.rank for name, basis in bases(case).items()}
    assert torch.equal(output(model), output(build(case[1])))


@CASES
def test_only_R_is_trainable(case):
    model = adapted(case)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {f"base_model.model.{name}.semu_R.default" for name in bases(case)}


@CASES
def test_a_step_changes_only_R(case):
    model = adapted(case, filled=False)
    before = state(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    loss(model).backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"base_model.model.{name}.semu_R.default" for name in bases(case)}


@SMALL
def test_training_lowers_the_loss(case):
    model = adapted(case, filled=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(loss(model))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@CASES
def test_first_gradient_is_U_G_V(case):
    plain, model = build(case[1]).double(), adapted(case, filled=False)
    loss(plain, dtype=torch.float64).backward()
    loss(model).backward()
    for name, basis in bases(case).items():
        G = plain.get_submodule(name).weight.grad.flatten(1)
        expected = basis.U.double().T @ G @ basis.V.double()
        actual = model.get_submodule(f"base_model.model.{name}").semu_R["default"].grad
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5 * G.norm().item())


@pytest.mark.parametrize("name", ["mlp", "cnn", "text"])
def test_first_gradient_is_diagonal_in_the_basis_of_the_gradient_itself(name):
    plain = build(name)
    loss(plain).backward()
    grads = {k: layer.weight.grad.flatten(1) for k, layer in find_layers(plain, SemuConfig()).items()}
    found = {k: truncate(G, 0.99) for k, G in grads.items()}
    model = get_peft_model(build(name), SemuConfig())
    install_bases(model, found)
    loss(model).backward()
    for k, basis in found.items():
        grad = model.get_submodule(f"base_model.model.{k}").semu_R["default"].grad
        torch.testing.assert_close(grad, torch.linalg.svdvals(grads[k])[: basis.rank].diag(), rtol=1e-4, atol=1e-5)


# Switching off, merging, unloading


@CASES
def test_disabled_is_exactly_the_base(case):
    model, base = adapted(case), output(build(case[1]))
    on = output(model)
    with model.disable_adapter():
        assert torch.equal(output(model), base)
    assert torch.equal(output(model), on)
    assert differ(on, base)


@CASES
def test_disabling_a_merged_adapter_gives_the_base(case):
    model = adapted(case)
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(output(model), output(build(case[1])), **CLOSE)


@CASES
@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unmerge(case, safe):
    model, base = adapted(case), build(case[1])
    on = output(model)
    model.merge_adapter(safe_merge=safe)
    assert any(differ(bare(model).get_submodule(k).weight, base.get_submodule(k).weight) for k in bases(case))
    torch.testing.assert_close(output(model), on, **CLOSE)
    model.unmerge_adapter()
    for name in bases(case):
        weight = bare(model).get_submodule(name).get_base_layer().weight
        torch.testing.assert_close(weight, base.get_submodule(name).weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(output(model), on, **CLOSE)


@SMALL
def test_merge_and_unmerge_twice_change_nothing_more(case):
    model = adapted(case)
    model.merge_adapter()
    once = state(model)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()
    assert_equal_states(once, state(model), **EXACT)
    model.unmerge_adapter()
    once = state(model)
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()
    assert_equal_states(once, state(model), **EXACT)


@CASES
@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unload(case, safe):
    model, base = adapted(case), build(case[1])
    on = output(model)
    merged = model.merge_and_unload(safe_merge=safe)
    assert merged.state_dict().keys() == base.state_dict().keys()
    assert not any(isinstance(m, SemuLayer) for m in merged.modules())
    torch.testing.assert_close(output(merged), on, **CLOSE)


@CASES
def test_the_merged_weight_is_W_plus_U_R_V(case):
    model, base = adapted(case), build(case[1])
    R = {k: bare(model).get_submodule(k).semu_R["default"].detach().double() for k in bases(case)}
    merged = model.merge_and_unload()
    for name, basis in bases(case).items():
        W = base.get_submodule(name).weight.double()
        expected = W + (basis.U.double() @ R[name] @ basis.V.double().T).view_as(W)
        torch.testing.assert_close(merged.get_submodule(name).weight.double(), expected, rtol=0, atol=2e-6)


@CASES
def test_safe_merge_refuses_nan(case):
    model = adapted(case)
    first = next(iter(m for m in model.modules() if isinstance(m, SemuLayer)))
    first.semu_R["default"].data[0, 0] = torch.nan
    before = state(model)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="non-finite"):
            merge(safe_merge=True)
        assert_equal_states(before, state(model), equal_nan=True, **EXACT)
    assert not first.merged


def test_safe_merge_of_two_adapters_takes_both_or_none():
    layer = SemuLinear(nn.Linear(6, 5), "good", r=2)
    layer.update_layer("bad", 2)
    layer.set_basis("good", torch.randn(5, 2), torch.randn(6, 2), torch.eye(2))
    layer.set_basis("bad", torch.randn(5, 2), torch.randn(6, 2), torch.full((2, 2), torch.nan))
    layer.set_adapter(["good", "bad"])
    before = layer.base_layer.weight.clone()
    with pytest.raises(ValueError, match="'bad'"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before) and not layer.merged


@CASES
def test_unload_gives_the_base_back(case):
    assert_equal_states(state(adapted(case).unload()), state(build(case[1])), **EXACT)


@SMALL
def test_copies_and_pickles(case):
    model = adapted(case)
    assert torch.equal(output(copy.deepcopy(model)), output(model))
    assert torch.equal(output(pickle.loads(pickle.dumps(model))), output(model))


# Several adapters, strength


@CASES
def test_two_adapters_switch(case):
    model, alone = with_second(case), output(adapted(case))
    assert torch.equal(output(model), alone)  # adding one does not switch to it
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith(".more"))
    model.set_adapter("more")
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"base_model.model.{name}.semu_R.more" for name in bases(case, "more")}
    assert differ(output(model), alone)
    model.set_adapter("default")
    assert torch.equal(output(model), alone)


@CASES
def test_two_adapters_add_up(case):
    model, base = with_second(case), build(case[1])
    model.base_model.set_adapter(["default", "more"])
    for name in bases(case):
        layer = bare(model).get_submodule(name)
        for adapter in set(layer.r):
            W = base.get_submodule(name).weight
            U, R, V = (getattr(layer, f"semu_{part}")[adapter] for part in "URV")
            W.data += (U @ R @ V.T).view_as(W)
    both = output(model)
    torch.testing.assert_close(both, output(base), **CLOSE)
    torch.testing.assert_close(output(model.merge_and_unload()), both, **CLOSE)


@CASES
def test_delete_one_of_two(case):
    model, alone = with_second(case), output(adapted(case))
    model.delete_adapter("more")
    assert torch.equal(output(model), alone)
    assert not [key for key in model.state_dict() if "more" in key.split(".")]
    assert list(model.peft_config) == ["default"]


@SMALL
def test_delete_the_active_one(case):
    model = with_second(case)
    model.set_adapter("more")
    expected = output(model)
    model.delete_adapter("default")
    model.set_adapter("more")
    assert torch.equal(output(model), expected)


@CASES
@pytest.mark.parametrize("scale", [0.0, -1.5])
def test_set_scale(case, scale):
    model, base = adapted(case), build(case[1])
    for name in bases(case):
        layer, W = bare(model).get_submodule(name), base.get_submodule(name).weight
        W.data += scale * layer.get_delta_weight("default").detach()
        layer.set_scale("default", scale)
        layer.set_scale("absent", 7.0)
        assert set(layer.scaling) == {"default"}
    torch.testing.assert_close(output(model), output(base), **CLOSE)
    if scale == 0:
        assert torch.equal(output(model), output(build(case[1])))


def test_scale_and_unscale_layer():
    layer = SemuLinear(nn.Linear(6, 5), "default", r=2)
    layer.update_layer("idle", 2)
    layer.set_scale("default", 0.5)
    layer.scale_layer(4)
    assert layer.scaling == {"default": 2.0, "idle": 1.0}  # active adapters only
    layer.unscale_layer(4)
    assert layer.scaling == {"default": 0.5, "idle": 1.0}
    layer.scale_layer(4)
    layer.unscale_layer()
    assert layer.scaling == {"default": 1.0, "idle": 1.0}


# Files and other ways in


@CASES
def test_save_and_load_through_peft(case, tmp_path):
    model = adapted(case)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(case[1]), tmp_path)
    assert torch.equal(output(loaded), output(model))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.peft_config["default"].ranks == model.peft_config["default"].ranks


@CASES
def test_checkpoint_keys(case, tmp_path):
    adapted(case).save_pretrained(tmp_path)
    expected = {f"base_model.model.{name}.semu_{part}" for name in bases(case) for part in "URV"}
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == expected
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "SEMU"


def test_loads_in_a_fresh_process(tmp_path):
    case = TEST_CASES[4]
    model = adapted(case)
    model.save_pretrained(tmp_path)
    code = f"""
import torch; torch.set_num_threads(1)
from models import build, predict
from peft import PeftModel
import semu_diffusion.adapter
model = PeftModel.from_pretrained(build({case[1]!r}), {str(tmp_path)!r})
torch.save(predict(model).detach(), {str(tmp_path / "out.pt")!r})
"""
    tests = Path(__file__).parents[1]
    code = f"import sys; sys.path[:0] = {[str(tests), str(tests.parent)]!r}\n{code}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), output(model), rtol=0, atol=1e-6)


@CASES
def test_injection_and_state_dict(case):
    model = adapted(case)
    saved = get_peft_model_state_dict(model)
    target = inject_adapter_in_model(config_of(case), build(case[1]))
    result = set_peft_model_state_dict(target, saved)
    assert not result.unexpected_keys and not [k for k in result.missing_keys if "semu_" in k]
    assert torch.equal(output(target), output(model))
    again = get_peft_model_state_dict(target)
    assert_equal_states(again, {k.removeprefix("base_model.model."): v for k, v in saved.items()}, **EXACT)


def test_a_saved_exclusion_loads_without_a_warning(tmp_path):
    adapted(TEST_CASES[5]).save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = PeftModel.from_pretrained(build("cnn"), tmp_path)
    assert isinstance(loaded.get_base_model().head, nn.Linear)


@SMALL
def test_low_cpu_mem_usage(case, tmp_path):
    model = adapted(case)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build(case[1]), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(output(loaded), output(model))


@pytest.mark.parametrize("case", [c for c in TEST_CASES if c[1] in ("unet", "text")], ids=lambda c: c[0])
def test_add_adapter_of_diffusers_and_transformers(case):
    model, saved = build(case[1]), get_peft_model_state_dict(adapted(case))
    base = output(model)
    model.add_adapter(config_of(case), "default")
    set_peft_model_state_dict(model, saved)
    on = output(model)
    assert torch.equal(on, output(adapted(case)))
    model.disable_adapters()
    assert torch.equal(output(model), base)
    model.enable_adapters()
    assert torch.equal(output(model), on)
    model.delete_adapters("default") if case[1] == "unet" else model.delete_adapter("default")
    assert torch.equal(output(model), base)


def test_unet_fuse_unfuse_and_unload():
    case = TEST_CASES[7]
    unet = build("unet")
    before = state(unet)
    unet.add_adapter(config_of(case), "default")
    set_peft_model_state_dict(unet, get_peft_model_state_dict(adapted(case)))
    on = output(unet)
    unet.fuse_lora()
    torch.testing.assert_close(output(unet), on, **CLOSE)
    unet.unfuse_lora()
    torch.testing.assert_close(output(unet), on, **CLOSE)
    unet.unload_lora()
    assert_equal_states(state(unet), before, rtol=0, atol=1e-6)


def test_unet_set_adapters_sets_the_strength():
    case = TEST_CASES[8]
    unet, base = build("unet"), output(build("unet"))
    unet.add_adapter(config_of(case), "default")
    set_peft_model_state_dict(unet, get_peft_model_state_dict(adapted(case)))
    on = output(unet)
    unet.set_adapters("default", 0.0)
    assert torch.equal(output(unet), base)
    unet.set_adapters("default", 1.0)
    assert torch.equal(output(unet), on)


def test_text_encoder_saves_and_loads_through_transformers(tmp_path):
    case = TEST_CASES[9]
    model = build("text")
    model.add_adapter(config_of(case))
    set_peft_model_state_dict(model, get_peft_model_state_dict(adapted(case)))
    model.save_pretrained(tmp_path)
    target = build("text")
    target.load_adapter(str(tmp_path))
    assert torch.equal(output(target), output(model))


LORA_TARGETS = {"mlp": ["first", "second"], "unet": ["to_q", "conv1"], "text": ["q_proj", "fc2"]}


@pytest.mark.parametrize("case", [TEST_CASES[i] for i in (0, 7, 9)], ids=lambda c: c[0])
@pytest.mark.parametrize("order", ["semu, lora", "lora, semu"])
def test_beside_a_lora(case, order):
    lora = LoraConfig(r=2, target_modules=LORA_TARGETS[case[1]], init_lora_weights=False)
    model, saved = build(case[1]), get_peft_model_state_dict(adapted(case))
    for kind in order.split(", "):
        torch.manual_seed(1)
        inject_adapter_in_model(lora if kind == "lora" else config_of(case), model, kind)
    set_peft_model_state_dict(model, saved, "semu")
    torch.manual_seed(1)
    expected = inject_adapter_in_model(lora, adapted(case).merge_and_unload(), "lora")
    set_peft_model_state_dict(expected, get_peft_model_state_dict(model, adapter_name="lora"), "lora")
    torch.testing.assert_close(output(model), output(expected), **CLOSE)
    again = get_peft_model_state_dict(model, adapter_name="semu")
    assert_equal_states({f"base_model.model.{k}": v for k, v in again.items()}, saved, **EXACT)


# Precision and compilation


@CASES
def test_bf16_base_with_autocast(case):
    model = adapted(case, model=build(case[1]).to(torch.bfloat16))
    layers = [m for m in model.modules() if isinstance(m, SemuLayer)]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(model, dtype=torch.bfloat16)
        assert differ(
            output(model, dtype=torch.bfloat16), output(build(case[1]).to(torch.bfloat16), dtype=torch.bfloat16)
        )
    value.backward()
    for layer in layers:
        R, U, V = (getattr(layer, f"semu_{part}")["default"] for part in "RUV")
        assert R.dtype == U.dtype == V.dtype == R.grad.dtype == torch.float32
        assert R.grad.isfinite().all() and layer.get_base_layer().weight.dtype == torch.bfloat16


@pytest.mark.parametrize("case", [TEST_CASES[i] for i in (0, 4, 9)], ids=lambda c: c[0])
def test_bf16_stays_close_to_fp32(case):
    full, model = output(adapted(case)), adapted(case, model=build(case[1]).to(torch.bfloat16))
    half = output(model, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.05 * full.norm()


def test_injection_in_bf16_keeps_the_adapter_in_fp32():
    case = TEST_CASES[8]
    unet = build("unet").to(torch.bfloat16)
    unet.add_adapter(config_of(case))
    parts = {v.dtype for k, v in unet.state_dict().items() if "semu_" in k}
    assert parts == {torch.float32}


def test_compiles():
    model = adapted(TEST_CASES[4])
    x = torch.randn(2, 3, 9, 8)
    out = torch.compile(bare(model), backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(out, model(x), **CLOSE)
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# Single layers


LINEARS = [{"bias": True}, {"bias": False}]
CONVS = [
    {},
    {"bias": False},
    {"stride": 2},
    {"stride": (1, 2), "padding": (2, 0)},
    {"padding": 1, "dilation": 2},
    {"padding": "same", "dilation": (2, 1)},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2, "padding": 1},
    {"kernel_size": 1},
    {"kernel_size": 1, "groups": 2, "stride": 2},
    {"kernel_size": (1, 3)},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (1, 2), "padding_mode": "circular", "groups": 2},
    {"padding": 2, "padding_mode": "replicate", "dilation": 2, "stride": 2},
]


def reference(base, layer, x):
    """The base in float64 with the weight W + U R V^T."""
    base = copy.deepcopy(base).double()
    U, R, V = (getattr(layer, f"semu_{part}")["default"].detach().double() for part in "URV")
    base.weight.data += (U @ R @ V.T).view_as(base.weight)
    return base(x.double())


@pytest.mark.parametrize("options", LINEARS, ids=str)
@pytest.mark.parametrize("shape", [(8,), (4, 8), (2, 3, 8)], ids=str)
def test_linear_equals_float64(options, shape):
    layer, x = SemuLinear(nn.Linear(8, 6, **options), "default"), torch.randn(shape)
    layer.set_basis("default", torch.randn(6, 3), torch.randn(8, 3), torch.randn(3, 3))
    torch.testing.assert_close(layer(x).double(), reference(layer.base_layer, layer, x), **CLOSE)


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("rank", [1, 3])
def test_conv_equals_float64(options, rank):
    base = nn.Conv2d(4, 8, **{"kernel_size": 3, **options})
    layer, x = SemuConv2d(base, "default"), torch.randn(2, 4, 9, 7)
    layer.set_basis("default", torch.randn(8, rank), torch.randn(base.weight[0].numel(), rank), torch.randn(rank, rank))
    torch.testing.assert_close(layer(x).double(), reference(base, layer, x), **CLOSE)


def test_a_forward_never_builds_the_full_matrix():
    layer = SemuLinear(nn.Linear(400, 300), "default")
    layer.set_basis("default", torch.randn(300, 2), torch.randn(400, 2))
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t):
        layer(torch.randn(5, 400))
    assert seen and torch.Size((300, 400)) not in seen and torch.Size((400, 300)) not in seen


def test_rank_zero_leaves_the_layer_alone():
    layer, x = SemuConv2d(nn.Conv2d(3, 4, 3), "default"), torch.randn(1, 3, 5, 5)
    assert torch.equal(layer(x), layer.base_layer(x))
    before = layer.base_layer.weight.clone()
    layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before) and not layer.merged


def test_attributes_of_the_base_are_found():
    conv = SemuConv2d(nn.Conv2d(4, 6, 3, groups=2, stride=2), "default")
    assert (conv.groups, conv.stride, conv.out_channels) == (2, (2, 2), 6)
    assert SemuLinear(nn.Linear(4, 6), "default").in_features == 4
    with pytest.raises(AttributeError):
        conv.no_such_attribute  # noqa: B018


TARGETS = [
    {"target_modules": ["to_q", "conv1"]},
    {"target_modules": ["attn1.to_q", "conv_in"]},
    {"target_modules": "conv_in"},
    {"target_modules": r".*attn2.*to_k|conv_out"},
    {"target_modules": ["to_q"], "exclude_modules": r".*up_blocks.*"},
    {"target_modules": ["to_q", "to_k"], "exclude_modules": ["attn1.to_q"]},
]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_targets_are_those_of_peft(targets):
    lora = inject_adapter_in_model(LoraConfig(r=1, **targets), build("unet"))
    semu = inject_adapter_in_model(SemuConfig(**targets), build("unet"))
    expected = {name for name, m in lora.named_modules() if isinstance(m, LoraLayer)}
    assert set(find_layers(build("unet"), SemuConfig(**targets))) == expected
    assert {name for name, m in semu.named_modules() if isinstance(m, SemuLayer)} == expected


def test_ranks_are_exact_names():
    model = nn.ModuleDict({"proj": nn.Linear(3, 3), "inner": nn.ModuleDict({"proj": nn.Linear(3, 3)})})
    inject_adapter_in_model(SemuConfig(ranks={"proj": 2}), model)
    assert isinstance(model["proj"], SemuLayer) and type(model["inner"]["proj"]) is nn.Linear


def test_attention_out_projection_is_not_adapted():
    # Its weight is read by the attention itself; its forward is never called: an adapter there would do nothing.
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert set(find_layers(model, SemuConfig())) == {"linear1", "linear2"}
    with pytest.raises(ValueError, match="self_attn.out_proj is NonDynamicallyQuantizableLinear"):
        get_peft_model(model, SemuConfig(target_modules=["out_proj"]))


@pytest.mark.parametrize("layer", [nn.LayerNorm(4), nn.Embedding(3, 4), nn.Conv1d(2, 2, 1), nn.BatchNorm2d(3)], ids=str)
def test_other_layers_are_refused(layer):
    with pytest.raises(ValueError, match=f"a.b is {type(layer).__name__}"):
        make_layer(layer, "default", 1, False, "a.b")


def test_a_layer_norm_target_is_named():
    with pytest.raises(ValueError, match="norm is LayerNorm"):
        get_peft_model(build("mlp"), SemuConfig(target_modules=["norm", "first"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": 0.0}, "gamma must be in (0, 1], got 0.0"),
        ({"gamma": 1.1}, "gamma must be in (0, 1], got 1.1"),
        ({"gamma_pattern": {"attn": 2}}, "gamma must be in (0, 1], got 2"),
        ({"max_rank": 0}, "max_rank must be at least 1"),
        ({"geometry": "flat"}, "geometry must be one of euclidean, remain, got 'flat'"),
        ({"damping": -1.0}, "damping must not be negative"),
        ({"ranks": {"a": 0}}, "the rank of a must be a whole number of at least 1, got 0"),
        ({"ranks": {"a": True}}, "the rank of a must be"),
        ({"ranks": {"a": 1.5}}, "the rank of a must be"),
    ],
)
def test_config_errors(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SemuConfig(**values)
