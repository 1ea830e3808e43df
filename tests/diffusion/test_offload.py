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
from semu_diffusion.cli.app import device_trouble
from semu_diffusion.diffusion.devices import execution_device, is_hooked, modules_of, settle
from semu_diffusion.diffusion.pipeline import denoiser

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


def test_only_what_no_hook_moves_is_moved(family_folder, monkeypatch):
    pipe, moved = load_family(family_folder("sd1")), []
    other = load_family(family_folder("sd1"))
    WAYS["model"](other.unet)
    monkeypatch.setattr(type(pipe.unet), "to", lambda self, device: moved.append("unet"))
    monkeypatch.setattr(type(pipe.vae), "to", lambda self, device: moved.append("vae"))
    monkeypatch.setattr(type(pipe.text_encoder), "to", lambda self, device: moved.append("text"))
    settle(pipe, CPU)
    assert moved == []
    settle(other, torch.device("meta"))
    assert sorted(moved) == ["text", "vae"]


def test_device_trouble_in_one_line():
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    assert "memory is full (CUDA out of memory); give --max-memory" in device_trouble(full)
    assert "use --offload model or group" in device_trouble(
        NotImplementedError("Cannot copy out of meta tensor; no data!")
    )
    assert device_trouble(RuntimeError("anything else")) is None
