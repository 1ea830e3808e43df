"""Adapter files: exact round trips, clear errors, an untouched model where loading fails, and the exact LoRA."""

import json
import pickle
import re

import pytest
import torch
from adapters import adapted_model
from models import build, predict
from peft import LoraConfig, PeftModel, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from semu_diffusion.adapter import SemuConfig, SemuConv2d, SemuLayer
from semu_diffusion.adapter.weights import (
    CONFIG,
    LORA,
    PREFIX,
    WEIGHTS,
    adapter_state,
    inject,
    load_adapter,
    lora_factors,
    lora_metadata,
    read_config,
    save_adapter,
    semu_layers,
)


@torch.no_grad()
def output(model):
    return predict(model)


def differ(a, b):
    return (a - b).abs().max() > 1e-3


# Round trips


@pytest.mark.parametrize("name", ["mlp", "cnn", "unet", "text"])
def test_round_trip_is_exact(name, tmp_path):
    model = adapted_model(name)
    assert save_adapter(model, tmp_path / "a" / "b", about={"concept": ["cat"]}) == tmp_path / "a" / "b"
    loaded = build(name)
    config = load_adapter(loaded, tmp_path / "a" / "b")
    assert torch.equal(output(loaded), output(model))
    assert differ(output(loaded), output(build(name)))
    saved, again = adapter_state(model), adapter_state(loaded)
    assert saved.keys() == again.keys() and all(torch.equal(saved[k], again[k]) for k in saved)
    assert config.about == {"concept": ["cat"], "precision": "fp32"}
    assert config.ranks == {k: m.r["default"] for k, m in semu_layers(model).items()}


@pytest.mark.parametrize("name", ["cnn", "unet"])
def test_the_weights_file_alone_is_enough(name, tmp_path):
    model = adapted_model(name)
    save_adapter(model, tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "other.safetensors")
    loaded = build(name)
    load_adapter(loaded, str(tmp_path / "other.safetensors"))
    assert torch.equal(output(loaded), output(model))


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_only_R_is_trainable_after_loading_and_only_on_request(name, trainable, tmp_path):
    save_adapter(adapted_model(name), tmp_path)
    model = build(name)
    load_adapter(model, tmp_path, trainable=trainable)
    adapter = {k for k, p in model.named_parameters() if "semu_" in k and p.requires_grad}
    assert adapter == ({f"{k}.semu_R.default" for k in semu_layers(model)} if trainable else set())


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_a_second_file_leaves_the_first_one_on(name, tmp_path):
    one, two = adapted_model(name), adapted_model(name)
    save_adapter(one, tmp_path / "one")
    save_adapter(two, tmp_path / "two")
    model = build(name)
    load_adapter(model, tmp_path / "one", "one")
    load_adapter(model, tmp_path / "two", "two")
    both = build(name)
    with torch.no_grad():
        for layer, weights in semu_layers(one).items():
            delta = weights.get_delta_weight("default") + semu_layers(two)[layer].get_delta_weight("default")
            both.get_submodule(layer).weight += delta
    torch.testing.assert_close(output(model), output(both), rtol=1e-3, atol=1e-4)
    assert set(model.peft_config) == {"one", "two"}
    for layer in semu_layers(model, "two").values():
        layer.set_adapter("two")
    assert torch.equal(output(model), output(two))
    for layer in semu_layers(model, "one").values():
        layer.set_adapter("one")
    assert torch.equal(output(model), output(one))


def test_the_header_is_the_config(tmp_path):
    save_adapter(
        adapted_model("cnn", gamma=0.7, exclude_modules=["head"]),
        tmp_path,
        about={"base_model": "org/model", "steps": 5},
    )
    text = (tmp_path / CONFIG).read_text()
    with safe_open(tmp_path / WEIGHTS, "pt") as weights:
        assert weights.metadata() == {"format": "pt", "semu_config": text}
    values = json.loads(text)
    assert values["base_model_name_or_path"] == "org/model" and values["about"]["steps"] == 5
    assert values["gamma"] == 0.7 and values["peft_type"] == "SEMU" and values["inference_mode"] is True
    assert values["target_modules"] == list(values["ranks"])
    assert read_config(tmp_path) == read_config(tmp_path / WEIGHTS)


def test_no_temporary_file_is_left(tmp_path):
    save_adapter(adapted_model("mlp"), tmp_path)
    save_adapter(adapted_model("mlp"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, WEIGHTS]


def test_saving_does_not_change_the_model_or_its_config(tmp_path):
    model = adapted_model("mlp")
    before = model.peft_config["default"].to_dict()
    save_adapter(model, tmp_path, about={"concept": ["cat"]})
    assert model.peft_config["default"].to_dict() == before
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["mlp", "cnn", "unet"])
def test_peft_reads_our_file_and_we_read_its(name, tmp_path):
    model = adapted_model(name)
    save_adapter(model, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(build(name), tmp_path / "ours")
    assert torch.equal(output(theirs), output(model))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = build(name)
    load_adapter(loaded, tmp_path / "theirs")
    assert torch.equal(output(loaded), output(model))


def test_saves_from_a_peft_model(tmp_path):
    save_adapter(adapted_model("mlp"), tmp_path / "one")
    model = PeftModel.from_pretrained(build("mlp"), tmp_path / "one")
    save_adapter(model, tmp_path / "two")
    assert load_file(tmp_path / "one" / WEIGHTS).keys() == load_file(tmp_path / "two" / WEIGHTS).keys()


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_lora_beside_it_changes_no_name(order, tmp_path):
    lora = LoraConfig(r=2, target_modules=["first", "head"], init_lora_weights=False)
    model = adapted_model("mlp")
    expected = adapter_state(model)
    if order == "after":
        config = model.peft_config
        inject_adapter_in_model(lora, model, "lora")
        model.peft_config = config
    else:
        model = inject_adapter_in_model(lora, build("mlp"), "lora")
        config = SemuConfig(ranks={k.removeprefix(PREFIX)[:-7]: len(v) for k, v in expected.items() if k.endswith("R")})
        model.peft_config = {}
        inject(model, config)
        set_peft_model_state_dict(model, expected)
    save_adapter(model, tmp_path)
    saved = load_file(tmp_path / WEIGHTS)
    assert saved.keys() == expected.keys() and all(torch.equal(saved[k], expected[k]) for k in saved)
    load_adapter(build("mlp"), tmp_path)


def test_saving_without_an_adapter():
    with pytest.raises(ValueError, match="no SEMU adapter named 'other'"):
        save_adapter(adapted_model("mlp"), "unused", "other")


# Files that do not fit


def rewrite(change_tensors=None, change_config=None):
    """Rewrites an adapter with changed tensors or config, both in the header and beside."""

    def damage(folder):
        tensors, values = load_file(folder / WEIGHTS), json.loads((folder / CONFIG).read_text())
        if change_tensors:
            change_tensors(tensors)
        if change_config:
            values = change_config(values) or values
        (folder / CONFIG).write_text(json.dumps(values))
        save_file(tensors, folder / WEIGHTS, {"semu_config": json.dumps(values)})

    return damage


def key(name, part):
    return f"{PREFIX}{name}.semu_{part}"


def cut_off(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def no_header(folder):
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)
    (folder / CONFIG).unlink()


def set_rank(values, name="second", rank=5):
    values["ranks"][name] = rank


def infinite(tensors):
    tensors[key("second", "V")][1, 0] = torch.inf


def transpose(tensors):
    tensors.update({k: tensors[k].T.contiguous() for k in (key("second", "U"), key("head", "U"))})


DAMAGES = {
    "missing": (lambda f: (f / WEIGHTS).unlink(), r"no adapter at .*adapter_model.safetensors"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "not a whole safetensors file"),
    "cut off": (cut_off, "not a whole safetensors file"),
    "cut off in the header": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:20]), "not a whole"),
    "a pickle": (lambda f: (f / WEIGHTS).write_bytes(pickle.dumps(list(range(99)))), "not a whole"),
    "a torch file": (lambda f: torch.save({"a": torch.ones(3)}, f / WEIGHTS), "not a whole safetensors file"),
    "wrong shape": (rewrite(transpose), r"the U of layer second is \(2, 16\), here it must be \(16, 2\)"),
    "wrong rank": (rewrite(None, set_rank), r"the U of layer second is \(16, 2\), here it must be \(16, 5\)"),
    "unknown layer": (rewrite(None, lambda v: set_rank(v, "absent")), "no Linear or Conv2d layer absent"),
    "a norm": (rewrite(None, lambda v: set_rank(v, "norm")), "no Linear or Conv2d layer norm"),
    "nan": (rewrite(lambda t: t[key("second", "R")].fill_(torch.nan)), "second.semu_R holds values"),
    "infinite": (rewrite(infinite), "second.semu_V holds values"),
    "whole numbers": (rewrite(lambda t: t.update({key("head", "R"): torch.ones(3, 3).long()})), "not finite"),
    "extra tensor": (rewrite(lambda t: t.update({"a.lora_A": torch.ones(2)})), "holds a.lora_A, which its config"),
    "extra layer": (rewrite(lambda t: t.update({key("norm", "U"): torch.ones(2, 1)})), "holds .*norm.semu_U, which"),
    "missing tensor": (rewrite(lambda t: t.pop(key("second", "V"))), "lacks the V of layer second"),
    "no layer": (rewrite(dict.clear, lambda v: {**v, "ranks": {}}), "names no adapted layer"),
    "rank 0": (rewrite(None, lambda v: set_rank(v, rank=0)), "the rank of second must be"),
    "ranks no table": (rewrite(None, lambda v: {**v, "ranks": [1]}), "is not a SEMU config"),
    "a LoRA config": (rewrite(None, lambda v: {**v, "peft_type": "LORA"}), "peft_type is 'LORA', not SEMU"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "is not a SEMU config"),
    "no object": (lambda f: (f / CONFIG).write_text("[]"), "is not a SEMU config"),
    "not text": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00"), "is not a SEMU config"),
    "no config": (no_header, "has no SEMU config in its header"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_refused_and_leaves_the_model_alone(damage, tmp_path):
    save_adapter(adapted_model("mlp"), tmp_path)
    change, message = DAMAGES[damage]
    change(tmp_path)
    model = build("mlp")
    modules, flags = list(model.named_modules()), [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=message) as error:
        load_adapter(model, tmp_path)
    assert "\n" not in str(error.value)
    assert list(model.named_modules()) == modules and not hasattr(model, "peft_config")
    assert [p.requires_grad for p in model.parameters()] == flags
    assert torch.equal(output(model), output(build("mlp")))


def test_unknown_keys_of_a_later_config_are_ignored(tmp_path):
    save_adapter(adapted_model("mlp"), tmp_path)
    rewrite(None, lambda v: {**v, "from_the_future": 1})(tmp_path)
    assert load_adapter(build("mlp"), tmp_path).ranks


def test_a_file_for_another_model_names_its_first_layer(tmp_path):
    save_adapter(adapted_model("cnn"), tmp_path)
    model = build("unet")
    with pytest.raises(ValueError, match="is for another model: this one has no Linear or Conv2d layer reflect"):
        load_adapter(model, tmp_path)
    assert not any(isinstance(m, SemuLayer) for m in model.modules())


def test_a_path_that_does_not_exist(tmp_path):
    for path in (tmp_path, tmp_path / "absent", tmp_path / "absent.safetensors"):
        with pytest.raises(ValueError, match=f"no adapter at {re.escape(str(path))}"):
            read_config(path)


# LoRA


def lora_state(factors, prefix=""):
    state = {}
    for name, (A, B) in factors.items():
        state |= {f"{prefix}{name}.lora_A.weight": A, f"{prefix}{name}.lora_B.weight": B}
    return state


@pytest.mark.parametrize("name", ["mlp", "unet", "text"])
def test_the_lora_is_exact_in_peft(name):
    model = adapted_model(name)
    factors = lora_factors(model)
    assert {A.shape[0] for A, _ in factors.values()} == {1, 2, 3}
    target = inject_adapter_in_model(LoraConfig(**lora_metadata(factors)), build(name))
    result = set_peft_model_state_dict(target, lora_state(factors))
    assert not result.unexpected_keys and not [k for k in result.missing_keys if "lora" in k]
    torch.testing.assert_close(output(target), output(model), rtol=1e-5, atol=1e-5)
    assert differ(output(target), output(build(name)))


def test_the_lora_is_exact_in_diffusers(tmp_path):
    model, target = adapted_model("unet"), build("unet")
    save_file(lora_state(lora_factors(model), "unet."), tmp_path / LORA)
    target.load_lora_adapter(tmp_path, prefix="unet", weight_name=LORA)
    torch.testing.assert_close(output(target), output(model), rtol=1e-5, atol=1e-5)


def test_the_lora_has_the_strength_of_the_adapter():
    model = adapted_model("mlp")
    for layer in semu_layers(model).values():
        layer.set_scale("default", 0.25)
    for name, (A, B) in lora_factors(model).items():
        torch.testing.assert_close(B @ A, semu_layers(model)[name].get_delta_weight("default"))
        assert A.is_contiguous() and B.is_contiguous() and not A.requires_grad and not B.requires_grad


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": (1, 0)}, {"kernel_size": 1}, {"kernel_size": 3, "padding": "same"}],
    ids=str,
)
def test_the_lora_of_a_convolution(options):
    base = nn.Conv2d(3, 5, **{"kernel_size": (3, 2), **options})
    model = nn.Sequential(base)
    layer = SemuConv2d(base, "default")
    layer.set_basis("default", torch.randn(5, 2), torch.randn(base.weight[0].numel(), 2), torch.randn(2, 2))
    ((A, B),) = lora_factors(nn.Sequential(layer)).values()
    target = inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=["0"]), model)
    set_peft_model_state_dict(target, lora_state({"0": (A, B)}))
    x = torch.randn(2, 3, 8, 7)
    torch.testing.assert_close(target(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["grouped", "dilated", "reflect"])
def test_convolutions_that_lora_cannot_express_are_refused(name):
    with pytest.raises(ValueError, match=f"LoRA cannot express {name}:"):
        lora_factors(adapted_model("cnn", target_modules=[name]))


def test_the_metadata_are_exact_names():
    factors = {"a.proj": (torch.ones(2, 4), torch.ones(3, 2)), "b.a.proj": (torch.ones(1, 4), torch.ones(3, 1))}
    metadata = lora_metadata(factors)
    config = LoraConfig(**metadata)
    model = nn.ModuleDict({"a": nn.ModuleDict({"proj": nn.Linear(4, 3)})})
    model["b"] = nn.ModuleDict({"a": nn.ModuleDict({"proj": nn.Linear(4, 3)})})
    inject_adapter_in_model(config, model)
    found = {k: (m.r["default"], m.scaling["default"]) for k, m in model.named_modules() if hasattr(m, "lora_A")}
    assert found == {"a.proj": (2, 1.0), "b.a.proj": (1, 1.0)}
