"""The budget: what records take, measured; stages against what they really take; what is given up first."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from tiny import QUICK
from tiny_families import load_family
from torch import nn

from semu_diffusion import erase
from semu_diffusion.adapter import SemuConfig
from semu_diffusion.adapter.subspace import find_bases, install_bases
from semu_diffusion.adapter.weights import inject
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion import EraseConfig, memory
from semu_diffusion.diffusion.concepts import vocabulary_of
from semu_diffusion.diffusion.data import make_states
from semu_diffusion.diffusion.devices import module_bytes
from semu_diffusion.diffusion.erasure import adapter_config
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.footprint import (
    Footprint,
    Given,
    Line,
    LiveBytes,
    checkpointing,
    measure,
    peak_bytes,
    probe,
)
from semu_diffusion.diffusion.memory import Batches, fitted_batches, plan_memory, stages
from semu_diffusion.diffusion.trainer import Trainer

CPU = torch.device("cpu")
SHORT = {**QUICK, "target_modules": "all", "geometry": "remain", "latents": 6, "keep_latents": 6, "sampler_steps": 2,
         "steps": 1, "max_rank": 4}  # fmt: skip


def test_live_bytes_are_those_of_tensors_that_are_alive():
    with LiveBytes() as live:
        a = torch.ones(1000)
        b = a + 1
        assert live.now == 8000
        del a
        b.view(10, 100).add_(1)
        assert live.now == 4000
        c = torch.cat([b, b])
        del b, c
    assert live.now == 0 and live.peak == 12000


def test_live_bytes_on_meta_tensors():
    x = torch.empty(100, device="meta")
    with LiveBytes() as live:
        (x * 2).sum()
    assert 400 <= live.peak <= 408


def test_a_step_of_a_plain_network_takes_what_it_must():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(6)))
    predict = lambda n, start: model(torch.zeros(n, 10, 64, requires_grad=start))  # noqa: E731
    foot = measure(model, SemuConfig(), predict, CPU)
    one = 4 * 10 * 64  # bytes of a record's states
    assert 2 * one <= foot.forward.each <= 5 * one
    assert 6 * one <= foot.step[False].each <= 12 * one  # each tanh keeps its output
    assert foot.gradient[False].each >= foot.step[False].each  # and the layers their inputs for the weights
    assert foot.shapes == [(64, 64)] * 6 and foot.rows == [10] * 6
    assert [(x.n, x.rows, x.unfolded) for x in foot.inputs] == [(64, 10, False)] * 6


@pytest.fixture(scope="module")
def family(family_folder):
    return family_of(load_family(family_folder("sd1")))


@pytest.fixture(scope="module")
def foot(family):
    return measure(family.model, adapter_config(EraseConfig("x", **SHORT)), probe(family, "a cat"), CPU)


def test_checkpointing_spares_and_is_off_again(family, foot):
    assert foot.step[True].each < foot.step[False].each
    with checkpointing(family.model, True):
        assert family.model.is_gradient_checkpointing
    assert not family.model.is_gradient_checkpointing
    assert len(foot.inputs) < len(foot.shapes)  # q, k and v see the same


def test_the_estimate_is_near_what_the_stages_take(family_folder):
    """Each stage run as an erasure runs it, its tensors counted: within 15 % where the model's records count."""
    family = family_of(load_family(family_folder("sd1")))
    config = EraseConfig("cigarette", **{**SHORT, "batch_size": 8}, strength=0.75, guidance=3.0)
    semu, plan = adapter_config(config), Batches(gradient=8, moments=8, checked=8, drawn=4)
    foot = measure(family.model, semu, probe(family, "a cat"), CPU)
    need = stages(config, plan, 0, foot)
    pairs = family.pairs(config.concept, None, vocabulary_of(""), 0)
    accelerator = Accelerator(cpu=True)
    states = make_states(family, config, pairs, ["a dog"], None, accelerator, Callback())
    trainer = Trainer(family, config, states, accelerator, None, batches=plan)
    index = torch.zeros(8, dtype=torch.long)
    taken = {}
    with torch.no_grad():
        taken["moments"] = peak_bytes(lambda: trainer.predict(family.model, index), CPU)
    bases = {}
    taken["gradient"] = peak_bytes(
        lambda: bases.update(
            find_bases(
                family.model, semu, trainer.forgetting_gradient(family.model), trainer.kept_forward(family.model)
            )
        ),
        CPU,
    )
    semu.ranks = {name: basis.rank for name, basis in bases.items()}
    inject(family.model, semu)
    install_bases(family.model, bases)
    optimizer = accelerator.prepare(trainer.optimizer())
    taken["training"] = peak_bytes(lambda: trainer.step(family.model, optimizer, 0), CPU)
    assert 0.85 < foot.forward(8) / taken["moments"] < 1.15
    whole = max(need["gradient"], need["moments"], need["bases"])
    assert 0.85 < whole / taken["gradient"] < 1.15
    assert 0.85 < need["training"] / taken["training"] < 1.15


def test_batches_fill_the_room(foot):
    config = EraseConfig("x", **{**SHORT, "latents": 32})
    plan = Batches(drawn=32, moments=32, gradient=8, checked=16)
    need = stages(config, plan, 10**6, foot)
    assert fitted_batches(config, plan, 10**6, foot, 2 * max(need.values())) == plan
    for share in (0.8, 0.5, 0.3):
        room = share * need["drawing"]
        fewer = fitted_batches(config, plan, 10**6, foot, room)
        found = stages(config, fewer, 10**6, foot)
        assert found["drawing"] <= room < stages(config, replace(fewer, drawn=fewer.drawn + 1), 10**6, foot)["drawing"]
    assert fitted_batches(config, plan, 10**6, foot, 1.0) == Batches(drawn=1, moments=1, gradient=1, checked=1)


def tighter(config, foot, host):
    """The plans of less and less room, until none fits; their rooms fall by 5 % below what the last one took."""
    room, found = 1e12, []
    for _ in range(200):
        try:
            chosen, plan = plan_memory(config, 10**6, foot, room, host)
        except ValueError as error:
            return found, str(error)
        need = max(stages(chosen, plan, 10**6, foot).values())
        assert need <= room
        found.append((chosen, plan))
        room = 0.95 * need
    raise AssertionError("never too little")


# A model whose sums, moments and records are all about as large, so that each counts.
WIDE = Footprint(
    Line(2e6), {False: Line(8e6), True: Line(2e6)}, {False: Line(1e7), True: Line(3e6)}, [(512, 512)] * 64, [64] * 64,
    [Given(512, 64)] * 40,
)  # fmt: skip


def test_what_is_given_up_first(foot):
    config = EraseConfig("x", geometry="remain")
    found, error = tighter(config, WIDE, host=1e12)
    order = [(plan.on_host, chosen.gradient_checkpointing, chosen.accumulate, chosen.sketch, chosen.geometry)
             for chosen, plan in found]  # fmt: skip
    assert order == sorted(order, key=lambda o: o[:3]) and order[0] == (False, False, 1, None, "remain")
    assert order[-1][:2] == (True, True) and {o[3:] for o in order} == {(None, "remain")}
    assert "is too little" in error and "use fewer --target-modules" in error
    drawn = [plan.drawn for _, plan in found]
    assert drawn[0] == 32 and drawn[-1] < 32


def test_on_a_cpu_the_host_is_no_way_out():
    found, _ = tighter(EraseConfig("x", geometry="remain"), WIDE, host=None)
    assert not any(plan.on_host for _, plan in found)
    assert found[-1][0].sketch == 64 and found[-1][0].geometry == "euclidean"


def test_a_short_host_gets_sketches():
    chosen, plan = plan_memory(EraseConfig("x"), 10**6, WIDE, 7e7, 1e6)
    assert plan.on_host and chosen.sketch == 64 and "sketches of 64 columns" in plan.words


def test_the_budget(monkeypatch):
    config = EraseConfig("x")
    assert memory.budget(config, CPU, 0) is None
    assert memory.budget(replace(config, max_memory=2.0), CPU, 0) == 2e9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 10**8)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * 10**8)
    assert memory.budget(config, torch.device("cuda"), 10**8) == pytest.approx(0.95 * 1.2e9)


def test_a_run_in_little_memory_is_nearly_the_same(family_folder):
    plain = erase(load_family(family_folder("sd1")), "cigarette", **SHORT)
    room = module_bytes(plain.pipe.unet) + module_bytes(plain.pipe.vae) + module_bytes(plain.pipe.text_encoder)
    short = erase(load_family(family_folder("sd1")), "cigarette", **SHORT, max_memory=(room + 1.4e7) / 1e9)
    assert "at a time" in short.facts["memory"] and "memory" not in plain.facts
    assert plain.facts["ranks"].keys() == short.facts["ranks"].keys()
