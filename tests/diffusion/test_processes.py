"""Erasing in two processes, each with the whole model or with half of it, against one; and what is refused."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shell import call_each, call_semu
from test_trainer import trainer_of
from tiny import QUICK, flags

from semu_diffusion import EraseConfig, load_pipeline
from semu_diffusion.adapter.ranks import Ranks
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion import erasure, trainer
from semu_diffusion.diffusion.families import StableDiffusion, family_of
from semu_diffusion.diffusion.loading import check_device, default_device
from semu_diffusion.diffusion.processes import check_processes, shard
from semu_diffusion.diffusion.trainer import Trainer
from semu_diffusion.evaluation import finish

WEIGHTS = "adapter_model.safetensors"
# A number of kept latents that does not come out even, and everything that is computed together.
OPTIONS = {**QUICK, "geometry": "remain", "latents": 6, "keep_latents": 5, "batch_size": 8, "max_rank": 4,
           "precision": "fp32", "save_every": 2, "adversarial": 1}  # fmt: skip
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def command(model, output, *more):
    options = ("--concept", "cigarette", "--model", model, "--device", "cpu", "--quiet", *flags(**OPTIONS))
    return ["erase", *options, "--output", output, *more]


def updates(folder):
    """U R V^T of each layer."""
    state = load_file(folder / WEIGHTS)
    names = [key.removesuffix("R") for key in state if key.endswith("semu_R")]
    return {name: state[f"{name}U"] @ state[f"{name}R"] @ state[f"{name}V"].T for name in names}


def results(folder):
    return json.loads((folder / "results.json").read_text())


def assert_same(folder, other):
    found, expected = updates(folder), updates(other)
    assert found.keys() == expected.keys() and max(D.abs().max() for D in expected.values()) > 1e-2
    for name, D in expected.items():
        torch.testing.assert_close(found[name], D, rtol=0, atol=1e-5)
    for row, same in zip(results(folder)["history"], results(other)["history"], strict=True):
        assert row == pytest.approx(same, rel=1e-3, abs=1e-6)
    assert results(folder)["options"] == results(other)["options"]
    assert {p.name for p in folder.iterdir()} == {p.name for p in other.iterdir()}


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Short rounds and quick pictures, and how many records each process asks the model about, in a file of its own."""
    folder, predict = tmp_path_factory.mktemp("counted"), StableDiffusion.call

    def watch(self, model, x, *arguments):
        with open(folder / os.environ.get("RANK", "one"), "a") as file:
            file.write(f"{len(x)}\n")
        return predict(self, model, x, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "STEPS", 3)
        patch.setattr(finish, "draw_together", partial(finish.draw_together, steps=2))
        patch.setattr(StableDiffusion, "call", watch)
        yield folder


@pytest.fixture(scope="module")
def one(tiny_model, counted, tmp_path_factory):
    """One process's adapter."""
    output = tmp_path_factory.mktemp("one") / "out"
    assert call_semu(*command(tiny_model, output)) == 0
    return output


def test_two_processes_share_everything_out(one, tiny_model, counted, tmp_path):
    assert call_each([command(tiny_model, tmp_path / "two")] * 2) == [0, 0]
    assert_same(tmp_path / "two", one)
    rows = [sum(map(int, (counted / name).read_text().split())) for name in ("one", "0", "1")]
    assert sum(rows[1:]) == pytest.approx(rows[0], rel=0.1)  # some latents are drawn twice
    assert max(rows[1:]) < 0.6 * rows[0]


def test_a_sharded_base_gives_the_same_adapter_and_goes_on(one, tiny_model, counted, tmp_path, monkeypatch):
    """FSDP2 from the first call on, interrupted, and resumed where the second process has another folder."""
    shard, step, measure = erasure.shard, Trainer.step, erasure.measure

    def held(family):
        return sum(p.to_local().numel() for p in family.model.parameters() if hasattr(p, "to_local"))

    def watch(family, accelerator):
        whole = sum(p.numel() for p in family.model.parameters())
        shard(family, accelerator)
        assert all(hasattr(p, "to_local") for p in family.model.parameters())  # nothing is whole any more
        assert 0.4 * whole < held(family) < 0.6 * whole
        family.held = held(family)

    def at_the_end(family, *arguments):
        assert held(family) == family.held  # sharded to the end
        return measure(family, *arguments)

    def stop(self, model, optimizer, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, model, optimizer, number)

    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(erasure, "shard", watch)
    monkeypatch.setattr(erasure, "measure", at_the_end)
    folders = [tmp_path / "first", tmp_path / "elsewhere"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        assert call_each([command(tiny_model, folder) for folder in folders]) == [130, 130]
    assert (folders[0] / ".work" / "checkpoint.safetensors").is_file() and not folders[1].exists()
    assert call_each([command(tiny_model, folder, "--resume") for folder in folders]) == [0, 0]
    assert_same(folders[0], one)
    assert not folders[1].exists()


# ------------------------------------------------------------------------------------------------ refused

TWO = {"WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    "variables, more, line",
    [
        ({"WORLD_SIZE": "3"}, [], "batch-size must be a multiple of accumulate times processes, here 3"),
        ({**TWO, "ACCELERATE_USE_FSDP": "true"}, [], "set fsdp_version: 2, or use --offload, --max-memory"),
        (FSDP, [], "and this is one: --num_processes"),
        ({**TWO, **FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, [], "set fsdp_offload_params: false"),
        ({**TWO, **FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, [], "use --gradient-checkpointing"),
        ({**TWO, **FSDP}, ["--offload", "model"], "leave out --offload, or FSDP"),
        ({**TWO, **FSDP}, ["--train", "text_encoder"], "leave out --train text_encoder, or FSDP"),
        ({**TWO, **FSDP}, ["--mixed-precision", "fp16"], "use --mixed-precision bf16"),
        ({**TWO, "ACCELERATE_USE_DEEPSPEED": "true"}, [], "use FSDP2"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(variables, more, line, tmp_path, monkeypatch, semu):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("semu_diffusion.diffusion.load_pipeline", lambda *_, **__: pytest.fail("loaded"))
    status, out, err = semu(*command("nowhere", tmp_path / "out", *more))
    assert status == 2 and line in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "out").exists()


def test_adversarial_rounds_of_a_sharded_base_need_a_record_for_each(monkeypatch):
    for name, value in {"WORLD_SIZE": "8", **FSDP}.items():
        monkeypatch.setenv(name, value)
    check_processes(EraseConfig("x", batch_size=16, adversarial=1), None)
    with pytest.raises(ValueError, match="at least 16"):
        check_processes(EraseConfig("x", batch_size=8, adversarial=1), None)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert default_device() == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert default_device() == "cuda:3" and check_device("cuda") == check_device(None) == torch.device("cuda:3")
    assert check_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="leave out --device cuda:0"):
        check_device("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(ValueError, match="5 processes on a machine with 4 GPUs"):
        default_device()


def test_a_sharded_base_shares_out_what_comes_out_even_and_says_so(tiny_model):
    caught, said = trainer_of(tiny_model, batch_size=6), []
    family, callback = caught.family, Callback()
    family.ranks, callback.note = Ranks(0, 5, sharded=True), said.append
    with pytest.raises(ValueError, match="here 5"):
        Trainer(family, caught.config, caught.states, caught.accelerator, Path("."))
    family.ranks = Ranks(0, 4, sharded=True)
    config = replace(caught.config, batch_size=8, gradient_records=11, moment_records=10)
    own = Trainer(family, config, caught.states, caught.accelerator, Path("."))
    assert torch.equal(own.held_out, caught.held_out) and torch.equal(own.forget, caught.forget)  # trained on the same
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erasure, "find_bases", lambda *_, **__: {})
        erasure.make_bases(family, config, caught.states, caught.accelerator, callback)
    assert "all 4 processes have as many: 3 records of the gradient, 2 of the moments" in said[0]


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda family: family.model.to(torch.float16), "--dtype bf16"),
        (lambda family: setattr(family.model.conv_in, "weight", None), "a quantised base"),
        (lambda family: setattr(type(family), "members", {"a": 1, "b": 2}), "two denoisers"),
    ],
)
def test_some_bases_cannot_be_sharded(change, line, tiny_model, monkeypatch):
    family = family_of(load_pipeline(str(tiny_model)))
    monkeypatch.setattr(type(family), "members", type(family).members)
    change(family)
    with pytest.raises(ValueError, match=line):
        shard(family, None)
