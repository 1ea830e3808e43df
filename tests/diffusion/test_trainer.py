"""Training R on a tiny pipeline: what it changes, what it must not, and how it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from shell import FORK, MAIN, call_semu
from tiny import QUICK, flags, interrupted, quick

import semu_diffusion
from semu_diffusion import EraseConfig, erase, load_pipeline
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.diffusion.config import TARGETS
from semu_diffusion.diffusion.objectives import OBJECTIVES, squared_error
from semu_diffusion.diffusion.schedule import Progress, Schedule
from semu_diffusion.diffusion.states import EMPTY, KEEP
from semu_diffusion.diffusion.trainer import Trainer

WEIGHTS = "adapter_model.safetensors"


def trained(pipe):
    return {name: layer.semu_R["default"].detach() for name, layer in semu_layers(pipe.unet).items()}


def distance(first, second):
    """The largest difference between the R of two runs."""
    first, second = trained(first.pipe), trained(second.pipe)
    assert first.keys() == second.keys()
    assert any(R.abs().max() > 1e-4 for R in first.values())
    return max((first[k] - second[k]).abs().max().item() for k in first)


@torch.no_grad()
def predict(unet, batch=2):
    g = torch.Generator().manual_seed(1)
    x, context = torch.randn(batch, 4, 8, 8, generator=g), torch.randn(batch, 16, 32, generator=g)
    return unet(x, torch.linspace(5, 900, batch).long(), context).sample


# ---------------------------------------------------------------------------------------- what is learned


def test_a_run_forgets(tiny_model, monkeypatch):
    train, losses = Trainer.train, []

    @torch.no_grad()
    def forgetting(self):
        return squared_error(self.predict(self.family.model, self.forget), self.targets(self.forget)).item()

    def watch(self, report):
        before, progress = forgetting(self), train(self, report)
        losses.extend([before, forgetting(self)])
        return progress

    monkeypatch.setattr(Trainer, "train", watch)
    result = quick(tiny_model, steps=40, latents=16, batch_size=8, target_modules="all", stop_at=-9.0)
    history = result.progress.history
    assert [row["step"] for row in history] == list(range(1, 41))
    assert losses[1] < 0.6 * losses[0]
    assert result.facts["left"] == history[-1]["left"] < 0.7
    assert history[0]["keep"] < 1e-10  # R = 0 is the base model
    assert history[0]["loss"] == pytest.approx(history[0]["forget"])


def test_the_base_stays_as_it_is(tiny_model):
    pipe = load_pipeline(str(tiny_model))
    unet, before = pipe.unet, predict(pipe.unet)
    parts = {
        n: {k: v.clone() for k, v in getattr(pipe, n).state_dict().items()} for n in ("unet", "vae", "text_encoder")
    }
    result = erase(pipe, "cigarette", **QUICK)
    assert result.pipe is pipe and pipe.unet is unet
    assert not torch.equal(predict(unet), before)
    for name, state in parts.items():
        now = {k.replace(".base_layer", ""): v for k, v in getattr(pipe, name).state_dict().items() if "semu_" not in k}
        assert now.keys() == state.keys()
        assert all(torch.equal(now[k], v) for k, v in state.items())
    unet.disable_adapters()
    assert torch.equal(predict(unet), before)
    assert not any(p.requires_grad for p in unet.parameters()) and not unet.training


def test_only_R_is_trained(tiny_model, monkeypatch):
    seen, step = [], Trainer.step

    def watch(self, model, optimizer, number):
        seen.append({n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad})
        seen.append({len(g["params"]) for g in optimizer.param_groups})
        start = {k: v.clone() for k, v in model.state_dict().items()}
        row = step(self, model, optimizer, number)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
        seen.append({k.split(".")[-2] for k in changed})
        return row

    monkeypatch.setattr(Trainer, "step", watch)
    quick(tiny_model, steps=1)
    assert seen == [{"semu_R"}, {1}, {"semu_R"}]


def test_the_seed_fixes_the_result(tiny_model):
    assert distance(quick(tiny_model), quick(tiny_model)) == 0


def test_accumulated_parts_are_the_whole_batch(tiny_model):
    options = {"batch_size": 16, "steps": 3, "anchor": "dog"}
    assert distance(quick(tiny_model, **options), quick(tiny_model, accumulate=2, **options)) < 1e-6


def test_a_batch_has_as_many_kept_as_forgotten(tiny_model):
    trainer = trainer_of(tiny_model, batch_size=16, anchor="dog")
    counts = torch.zeros(5)
    for step in range(40):
        batch = trainer.batch(step)
        assert len(batch.forget) == len(batch.keep) == 16
        assert torch.equal(batch.keep, trainer.batch(step).keep)
        assert set(trainer.states.kind[batch.forget].tolist()) == {0}
        counts += torch.bincount(trainer.states.kind[batch.keep], minlength=5)
    assert not set(trainer.held_out.tolist()) & set(trainer.forget.tolist())
    torch.testing.assert_close(counts / counts.sum(), torch.tensor([0, 0.7, 0.15, 0.15, 0]), rtol=0, atol=0.02)


@pytest.mark.parametrize("count, expected", [(16, {1: 12, 3: 4}), (7, {1: 6, 3: 1}), (1, {1: 1}), (9999, None)])
def test_the_moments_are_those_of_kept_prompts_mostly(tiny_model, monkeypatch, count, expected):
    trainer, seen = trainer_of(tiny_model, moment_records=count), []
    monkeypatch.setattr(trainer, "predict", lambda model, index: seen.append(index))
    for _ in range(2):
        trainer.kept_forward(trainer.family.model)()
    seen = torch.cat(seen)
    once, again = seen.chunk(2)
    assert torch.equal(once, again) and len(once.unique()) == len(once)  # of each record once, by the seed
    kinds = {kind: int((trainer.states.kind[once] == kind).sum()) for kind in (KEEP, EMPTY)}
    expected = expected or {kind: len(trainer.states.of_kind(kind)) for kind in (KEEP, EMPTY)}
    assert {k: n for k, n in kinds.items() if n} == expected and len(once) == sum(expected.values())


def trainer_of(model, **options):
    """The trainer of a run, caught as it begins."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train", lambda self, report: caught.append(self) or None)
        with pytest.raises(AttributeError):  # there is no progress to go on with
            quick(model, **options)
    return caught[0]


def test_without_a_keep_loss(tiny_model):
    result = quick(tiny_model, keep_weight=0)
    assert all("keep" not in row for row in result.progress.history)


CHOICES = [
    *({"objective": name, "strength": s} for name in OBJECTIVES for s in (0, 1.0)),
    *({"geometry": name} for name in ("euclidean", "remain")),
    *({"anchor": name} for name in ("dog", "random")),
    *({"target_modules": name} for name in TARGETS if name != "cross-attention"),
    {"concept": ["cigarette", "sepia style"]},
    {"keep": ["a picture of a dog", "a cat"]},
    {"gamma_cross": 1.0},
    {"gradient_checkpointing": True},
    {"mixed_precision": "bf16"},
]


@pytest.mark.parametrize("options", CHOICES, ids=lambda o: "-".join(map(str, next(iter(o.items())))))
def test_every_choice_runs(tiny_model, options):
    pipe = load_pipeline(str(tiny_model))
    before = predict(pipe.unet)
    result = erase(pipe, **{"concept": "cigarette", **QUICK, "steps": 2, "latents": 4, "max_rank": 4, **options})
    assert result.progress.step == 2
    assert any(R.abs().max() > 0 for R in trained(pipe).values())
    pipe.unet.disable_adapters()
    assert torch.equal(predict(pipe.unet), before)


def test_v_prediction_forgets(tiny_v_model):
    assert quick(tiny_v_model, steps=20).facts["left"] < 0.9


def test_given_pictures(tiny_model, tmp_path):
    from PIL import Image

    for name, colour in (("forget", "red"), ("keep", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 30), colour).save(tmp_path / name / "picture.png")
        (tmp_path / name / "picture.txt").write_text("a picture of a tree")
    result = quick(
        tiny_model, forget_images=str(tmp_path / "forget"), retain_images=str(tmp_path / "keep"), keep_weight=0, steps=2
    )
    assert all(row["keep"] > 0 for row in result.progress.history)  # the remain loss
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in"):
        quick(tiny_model, retain_images=str(tmp_path / "empty"))


# ----------------------------------------------------------------------------------------- ---------- stop


def test_the_run_stops_once_the_concept_is_gone(tiny_model, monkeypatch):
    shares = iter([0.9, 0.1, 0.6, 0.2, 0.15, 0.1])
    monkeypatch.setattr(Trainer, "share_left", lambda self, model: next(shares))
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.COOLDOWN", 7)
    result = quick(tiny_model, steps=70, stop_at=0.3, strength=0.0, batch_size=1, settle=7)
    assert result.progress.reached == 50 and result.progress.step == 57
    measured = {row["step"]: row["left"] for row in result.progress.history if "left" in row}  # and once at the end
    assert list(measured) == [10, 20, 30, 40, 50, 57] and result.facts["left"] == 0.1


def test_the_learning_rate_falls_to_zero_after_the_stop_rule_or_at_the_last_step(monkeypatch):
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.COOLDOWN", 20)
    schedule = Schedule(EraseConfig(concept="cat", steps=100))
    rates = [schedule.rate(Progress(step)) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:81] == [1.0] * 71 and rates[-1] == pytest.approx(1 / 20)
    cooling = [schedule.rate(Progress(step, reached=30)) for step in range(30, 50)]
    assert cooling == pytest.approx([1 - k / 20 for k in range(20)])
    assert [schedule.end(Progress(reached=step)) for step in (30, 95)] == [50, 100]


# ------------------------------------------------------------------------------------------- interruptions


def test_a_loss_of_nan_stops_and_keeps_the_checkpoint(tiny_model, tmp_path, monkeypatch):
    loss, calls, kept = Trainer.loss, [], []
    file = tmp_path / "out" / ".work" / "checkpoint.safetensors"

    def broken(self, model, batch):
        value, parts = loss(self, model, batch)
        calls.append(1)
        if len(calls) == 4:
            kept.append(file.read_bytes())
        return (value * float("nan") if len(calls) == 4 else value), parts

    monkeypatch.setattr(Trainer, "loss", broken)
    with pytest.raises(FloatingPointError, match="at step 4.*--lr"):
        quick(tiny_model, output=tmp_path / "out", save_every=2)
    assert file.read_bytes() == kept[0]
    assert all(v.isfinite().all() for v in load_file(file).values())
    assert not (tmp_path / "out" / WEIGHTS).exists()
    monkeypatch.setattr(Trainer, "loss", loss)
    assert (
        distance(quick(tiny_model, output=tmp_path / "out", save_every=2, resume=True), quick(tiny_model, save_every=2))
        == 0
    )


@pytest.fixture(scope="module")
def killed(tiny_model, tmp_path_factory):
    """A run that was killed in the middle of training, and the arguments that began it."""
    output = tmp_path_factory.mktemp("killed") / "out"
    options = {**QUICK, "steps": 60, "save_every": 2, "model": tiny_model}
    arguments = ["erase", "--concept", "cigarette", "--no-evaluate", "--quiet", *flags(**options)]
    process = FORK.Process(target=call_semu, args=(*arguments, "--output", output))
    process.start()
    checkpoint = output / ".work" / "checkpoint.safetensors"
    limit = time.time() + 600
    while not checkpoint.exists() and process.is_alive() and time.time() < limit:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and checkpoint.exists()
    return output, arguments, options


def test_a_killed_run_cannot_go_on_with_other_options(killed, tiny_model, tiny_v_model, semu):
    output, arguments, _ = killed
    for other in (["--lr", "0.5"], ["--model", str(tiny_v_model)]):
        status, _, err = semu(*arguments, *other, "--output", output, "--resume")
        assert status == 2 and "other options" in err
    status, _, err = semu(*arguments, "--output", output)
    assert status == 2 and "--resume" in err
    assert (output / ".work" / "checkpoint.safetensors").exists()


def test_a_killed_run_ends_as_if_it_had_not_been(killed, tmp_path):
    output, arguments, _ = killed
    assert call_semu(*arguments, "--output", output, "--resume") == 0
    assert call_semu(*arguments, "--output", tmp_path / "whole") == 0
    resumed, whole = load_file(output / WEIGHTS), load_file(tmp_path / "whole" / WEIGHTS)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)
    histories = [json.loads((f / "results.json").read_text())["history"] for f in (output, tmp_path / "whole")]
    assert histories[0] == histories[1] and len(histories[0]) == 60
    assert not (output / ".work").exists()


def test_resuming_at_every_step_gives_the_same(tiny_model, tmp_path, monkeypatch):
    options = {"save_every": 1, "steps": 4}
    whole = quick(tiny_model, **options)
    result = interrupted(monkeypatch, 4, tiny_model, output=tmp_path / "out", **options)
    assert distance(result, whole) == 0
    assert result.progress.history == whole.progress.history


def test_two_processes_train_as_one(tiny_model, tmp_path):
    options = {**QUICK, "batch_size": 8, "steps": 6, "max_rank": 4, "precision": "fp32"}
    script = tmp_path / "semu.py"
    script.write_text(MAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), "erase",
               "--concept", "cigarette", "--model", str(tiny_model), *flags(**options), "--json", "--quiet",
               "--no-evaluate", "--output", str(tmp_path / "two")]  # fmt: skip
    environment = {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(Path(semu_diffusion.__file__).parents[1])}
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout[done.stdout.index("{") :]  # gloo of torch 2.10 says first who is connected
    assert json.loads(said)["training"]["steps"] == 6  # one of them speaks
    one, two = quick(tiny_model, output=tmp_path / "one", **options), load_file(tmp_path / "two" / WEIGHTS)
    for name, layer in semu_layers(one.pipe.unet).items():
        U, R, V = (two[f"base_model.model.{name}.semu_{part}"] for part in "URV")
        D = layer.get_delta_weight("default").flatten(1)  # signs of U and V may differ
        torch.testing.assert_close(U @ R @ V.T, D, rtol=0, atol=1e-5)
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert EraseConfig(**results["options"]) == one.config
    for key in ("loss", "forget", "keep"):  # of both processes, not of the first alone
        losses = [[row[key] for row in history] for history in (results["history"], one.progress.history)]
        torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-3, atol=1e-6)
    assert "broadcast_buffers" not in done.stderr and "FutureWarning" not in done.stderr


def test_only_accelerates_word_to_torch_is_not_passed_on(tiny_model, monkeypatch):
    prepare = Accelerator.prepare

    def warns(self, *arguments, **options):
        warnings.warn("`broadcast_buffers` is deprecated and will be removed", FutureWarning, stacklevel=1)
        warnings.warn("something that concerns the user", FutureWarning, stacklevel=1)
        warnings.warn("buffers are slow here", UserWarning, stacklevel=1)
        return prepare(self, *arguments, **options)

    monkeypatch.setattr(Accelerator, "prepare", warns)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quick(tiny_model, steps=1)
    texts = [str(warning.message) for warning in said]
    assert "something that concerns the user" in texts and "buffers are slow here" in texts
    assert not any("broadcast_buffers" in text for text in texts)


@pytest.mark.parametrize(
    "little",
    [
        {"latents": 2, "sampler_steps": 1},
        {"latents": 2, "keep_latents": 2, "sampler_steps": 1, "geometry": "remain"},
        {"latents": 2, "keep_latents": 2, "sampler_steps": 1, "keep_weight": 0.0, "batch_size": 1},
        {"latents": 3, "sampler_steps": 1, "adversarial": 1, "concept": ["cigarette", "neon style"]},
        {"latents": 2, "sampler_steps": 1, "gradient_records": 1, "moment_records": 1, "max_rank": 1},
    ],
    ids=str,
)
def test_the_smallest_runs(little, tiny_model, monkeypatch):
    """With fewer records than a batch, a held-out part or a geometry would like to have."""
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.STEPS", 2)  # of an adversarial round
    options = {"steps": 2, "concept": "cigarette", **little}
    result = quick(tiny_model, options.pop("concept"), **options)
    assert result.progress.step >= 2 and all(R.isfinite().all() for R in trained(result.pipe).values())
    assert all(row["loss"] == row["loss"] for row in result.progress.history) and "left" in result.facts
