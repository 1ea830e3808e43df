"""Adapter files from strangers: 5,100 damaged ones, each refused with a ValueError or loaded to finite weights."""

import json
import random
import resource
import signal
import struct
import time

import pytest
import torch
from adapters import adapted_model
from models import build
from mutation import mutate_bytes, mutate_json
from peft import PeftModel
from safetensors.torch import load_file, save

from semu_diffusion.adapter.weights import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    config_from_json,
    load_adapter,
    save_adapter,
    semu_layers,
)
from semu_diffusion.diffusion.blocks import depth_bars
from semu_diffusion.hub.contents import read_contents

FILES = 5100
DEEP = 10**5
WAYS = ("bytes", "bytes", "header", "header", "config", "config", "tensors", "tensors", "folder", "folder", "length")


def mutate_header(rng, data):
    """The JSON header changed, its length again right."""
    size = struct.unpack("<Q", data[:8])[0]
    header = mutate_json(rng, data[8 : 8 + size]).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def mutate_length(rng, data):
    """The header's length alone."""
    return struct.pack("<Q", rng.choice((0, 1, 7, 2**20, 2**31, 2**63, 2**64 - 1, rng.getrandbits(16)))) + data[8:]


def mutate_config(rng, data):
    """The config in the header, in a file that is otherwise whole."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["semu_config"] = mutate_json(rng, header["__metadata__"]["semu_config"])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def mutate_tensors(rng, tensors, config):
    """A whole file with other values, types, shapes or names, its config's ranks perhaps to match."""
    tensors, config = dict(tensors), json.loads(config)
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(list(tensors))
        value = tensors[key].clone()
        way = rng.randrange(7)
        if way == 0:
            value = value.float().contiguous()
            value.view(-1)[: rng.randint(1, 3)] = rng.choice((torch.nan, torch.inf, -torch.inf, 3e38, 1e-45, 1e15))
        elif way == 1:
            types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn)
            value = value.nan_to_num().to(rng.choice(types))
        elif way == 2:
            value = (value.double() * rng.choice((1e300, 1e40, 1e20, 0.0))).contiguous()
        elif way == 3:
            value = value.T.contiguous() if value.ndim == 2 else value
        elif way == 4:
            value = torch.zeros(rng.choice(((), (0,), (0, 0), (20, 0), (1, 1, 1), (12, 40))))
        elif way == 5:
            tensors[rng.choice((key + "x", key.removeprefix(PREFIX), PREFIX + "norm.semu_U", "a", PREFIX))] = (
                value.clone()
            )
        else:
            r = rng.choice((1, 2, 19))
            layer = rng.choice(list(config["ranks"]))
            config["ranks"][layer] = r
            for part in "URV":
                name = f"{PREFIX}{layer}.semu_{part}"
                if name in tensors and tensors[name].ndim:
                    tensors[name] = torch.randn(r if part == "R" else len(tensors[name]), r)
            continue
        tensors[key] = value
    return save(tensors, {"semu_config": json.dumps(config)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Config text, bytes and tensors of an adapter for the small MLP."""
    folder = tmp_path_factory.mktemp("whole")
    save_adapter(adapted_model("mlp"), folder, about={"concept": ["cat"], "base_model": "a/b"})
    return (folder / CONFIG).read_text(), (folder / WEIGHTS).read_bytes(), load_file(folder / WEIGHTS)


@pytest.fixture
def no_hang():
    """Ends a test that a file has caught in a loop."""

    def stop(*_):
        raise AssertionError("a file made the loader hang")

    before = signal.signal(signal.SIGALRM, stop)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def finite(model):
    """Whether every weight with its update is finite."""
    return all(
        (layer.get_base_layer().weight + layer.get_delta_weight("default")).isfinite().all()
        for layer in semu_layers(model).values()
    )


def outcome(path, model):
    """ "refused", and the model untouched, or "loaded"; any other error than ValueError goes through."""
    try:
        contents = read_contents(path)
        depth_bars(contents.ranks)
    except ValueError:
        pass
    try:
        load_adapter(model, path)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 8000
        assert not semu_layers(model) and not hasattr(model, "peft_config")
        return "refused"
    assert finite(model)
    return "loaded"


def test_damaged_files_are_refused_or_load_to_finite_weights(whole, tmp_path, no_hang):
    config, data, tensors = whole
    rng, outcomes = random.Random(0), {}
    model = build("mlp")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / WEIGHTS).write_bytes(data)
    change = {"bytes": mutate_bytes, "header": mutate_header, "length": mutate_length, "config": mutate_config}
    memory, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for _ in range(FILES):
        way = rng.choice(WAYS)
        path = tmp_path / WEIGHTS
        if way == "folder":
            path = tmp_path / "folder"
            (path / CONFIG).write_text(mutate_json(rng, config))
        elif way == "tensors":
            path.write_bytes(mutate_tensors(rng, tensors, config))
        else:
            path.write_bytes(change[way](rng, data))
        no_hang(10)
        started = time.perf_counter()
        outcomes.setdefault(way, []).append(outcome(path, model))
        slowest = max(slowest, time.perf_counter() - started)
        model = build("mlp") if outcomes[way][-1] == "loaded" else model
    no_hang(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory  # KiB
    assert grown < 64 * 1024, f"memory grew by {grown} KiB on files of {len(data)} bytes"
    assert sum(map(len, outcomes.values())) == FILES and slowest < 5
    for way in ("bytes", "config", "tensors", "folder"):  # the mutators reach both ends
        assert {"refused", "loaded"} == set(outcomes[way]), way


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v: v.update(exclude_modules="(a+)+$", target_modules="(a|a)*$"), None),
        (lambda v: v.update(gamma_pattern={"(x+x+)+y": 0.5}), None),
        (lambda v: v.update(base_model_name_or_path="/etc/passwd", auto_mapping={"parent_library": "os"}), None),
        (lambda v: v["about"].update(concept=[["a"]]), "its concept is no list of texts"),
        (lambda v: v["about"].update(base_model=5), "its base_model is no text"),
        (lambda v: v.update(about=[1]), "is not a SEMU config"),
        (lambda v: v["ranks"].update(first=10**12), "is not|must be"),
    ],
)
def test_configs_made_to_hurt(whole, tmp_path, no_hang, change, message):
    values = json.loads(whole[0])
    change(values)
    (tmp_path / CONFIG).write_text(json.dumps(values))
    (tmp_path / WEIGHTS).write_bytes(whole[1])
    no_hang(10)
    if message is None:
        load_adapter(build("mlp"), tmp_path)
        return
    with pytest.raises(ValueError, match=message):
        load_adapter(build("mlp"), tmp_path)


def test_one_concept_as_a_text_is_a_list_of_one(whole):
    values = json.loads(whole[0])
    values["about"]["concept"] = "cat"
    assert config_from_json(json.dumps(values), "file").about["concept"] == ["cat"]


def test_json_bombs():
    for text in ("[" * DEEP, '{"a":' * DEEP, '{"peft_type": "SEMU", "ranks": ' + "9" * 10**5 + "}"):
        with pytest.raises(ValueError, match="is not a SEMU config"):
            config_from_json(text, "file")
    with pytest.raises(ValueError, match="characters"):
        config_from_json(" " * (2**24 + 1), "file")


def test_a_rank_that_would_fill_the_memory_is_refused_by_peft_too(whole, tmp_path):
    values = json.loads(whole[0])
    values["ranks"]["first"] = 10**12
    (tmp_path / CONFIG).write_text(json.dumps(values))
    (tmp_path / WEIGHTS).write_bytes(whole[1])
    with pytest.raises(ValueError, match="rank 1000000000000 is too high"):
        PeftModel.from_pretrained(build("mlp"), tmp_path)


def test_factors_that_overflow_only_together_are_refused(whole, tmp_path):
    tensors = {k: v * 1e15 for k, v in whole[2].items()}
    (tmp_path / CONFIG).write_text(whole[0])
    (tmp_path / WEIGHTS).write_bytes(save(tensors))
    with pytest.raises(ValueError, match="update of first is far too large"):
        load_adapter(build("mlp"), tmp_path)
