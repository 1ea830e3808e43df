"""Offloaded pipelines: the same adapter as without hooks, and hooks that are there afterwards."""

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading
from tiny import QUICK
from tiny_families import load_family
from torch import nn

from semu_diffusion import erase
from semu_diffusion.adapter.base_layers import weight_matrix
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.diffusion.devices import Stage, execution_device, is_hooked, module_bytes, modules_of
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.pipeline import denoiser
from semu_diffusion.messages import message_of

CPU = torch.device("cpu")
SHORT = {**QUICK, "target_modules": "all", "geometry": "remain", "sampler_steps": 2, "max_rank": 4}
WAYS = {
    "model": lambda part: cpu_offload_with_hook(part, CPU),
    "sequential": lambda part: cpu_offload(part, CPU),
    "group": lambda part: apply_group_offloading(
        part, onload_device=CPU, offload_device=CPU, offload_type="leaf_level"
    ),
}


def trained(pipe):
    erase(pipe, "cigarette", **SHORT)
    return {name: layer.semu_R["default"].detach() for name, layer in semu_layers(denoiser(pipe)).items()}


@pytest.fixture(scope="module")
def plain(family_folder):
    return {name: trained(load_family(family_folder(name))) for name in ("sd1", "flux")}


@pytest.mark.parametrize(
    "name, way", [("sd1", "model"), ("sd1", "sequential"), ("sd1", "group"), ("flux", "sequential")]
)
def test_an_offloaded_pipeline_gets_the_same_adapter(name, way, family_folder, plain):
    pipe = load_family(family_folder(name))
    for part in modules_of(pipe):
        WAYS[way](part)
    assert all(map(is_hooked, modules_of(pipe))) and execution_device(pipe) == CPU
    found = trained(pipe)
    assert found.keys() == plain[name].keys()
    for key, R in plain[name].items():
        torch.testing.assert_close(found[key], R)
    assert all(map(is_hooked, modules_of(pipe)))
    if way == "sequential":
        assert any(p.device.type == "meta" for p in denoiser(pipe).parameters())


def test_the_weight_of_an_offloaded_layer():
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach().clone()
    cpu_offload(nn.Sequential(layer), CPU)
    assert layer.weight.device.type == "meta" and torch.equal(weight_matrix(layer), weight)
    assert layer.weight.device.type == "meta"


def parts_that_note(pipe, monkeypatch):
    """Where the parts of a pipeline are sent, in order."""
    sent = []
    for name in ("unet", "vae", "text_encoder"):
        part = getattr(pipe, name)
        monkeypatch.setattr(part, "to", lambda device, name=name: sent.append((name, str(device))))
    return sent


def test_each_part_is_on_the_device_only_when_it_is_needed(family_folder, monkeypatch):
    pipe = load_family(family_folder("sd1"))
    family, sent = family_of(pipe), parts_that_note(pipe, monkeypatch)
    stage = Stage(pipe, family, torch.device("meta"))
    stage.begin()
    assert sorted(sent) == [("text_encoder", "cpu"), ("unet", "meta"), ("vae", "cpu")]
    sent.clear()
    with stage.awake(pipe.text_encoder):
        assert sent == [("text_encoder", "meta")]
    assert sent.pop() == ("text_encoder", "cpu")
    sent.clear()
    with pytest.raises(RuntimeError), stage.awake(pipe.vae, None):
        raise RuntimeError
    assert sent == [("vae", "meta"), ("vae", "cpu")]
    sent.clear()
    stage.end(pipe)
    assert sorted(sent) == [("text_encoder", "meta"), ("vae", "meta")]


def test_what_does_not_fit_beside_each_other_takes_turns(family_folder, monkeypatch):
    pipe = load_family(family_folder("sd1"))
    both = module_bytes(pipe.unet) + module_bytes(pipe.text_encoder)
    family, sent = family_of(pipe), parts_that_note(pipe, monkeypatch)
    stage = Stage(pipe, family, torch.device("meta"), both - 1)
    with stage.awake(pipe.text_encoder):
        assert sent == [("unet", "cpu"), ("text_encoder", "meta")]
    assert sent[2:] == [("text_encoder", "cpu"), ("unet", "meta")]
    called = []
    monkeypatch.setattr(pipe, "enable_model_cpu_offload", lambda device: called.append(str(device)), raising=False)
    stage.end(pipe)
    assert called == ["meta"]


def test_hooks_and_the_cpu_move_nothing(family_folder):
    pipe = load_family(family_folder("sd1"))
    stage = Stage(pipe, family_of(pipe), CPU)
    assert not stage.busy and not stage.idle
    WAYS["model"](pipe.unet)
    stage = Stage(pipe, family_of(pipe), torch.device("meta"))
    assert not stage.busy and len(stage.idle) == 2
    text = Stage(pipe, family_of(pipe, "text_encoder"), torch.device("meta"))
    assert text.busy == [pipe.text_encoder] and text.idle == [pipe.vae]


def test_device_trouble_in_one_line():
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    assert "--max-memory" in message_of(full)[0] and "--offload model" in message_of(full)[0]
    assert (
        "use --offload model or group" in message_of(NotImplementedError("Cannot copy out of meta tensor; no data!"))[0]
    )
