"""Runs that are killed, interrupted, out of disk or begun twice: the next command goes on, or begins anew."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from shell import call_semu, held_by_another
from tiny import QUICK, flags

from semu_diffusion.adapter.claims import LEFT
from semu_diffusion.adapter.weights import WEIGHTS
from semu_diffusion.diffusion import erasure

KILLS = 3
OPTIONS = {**QUICK, "steps": 16, "save_every": 2}
CARDS = {"README.md", "results.json", "before_after.png", "loss.png", WEIGHTS}


def arguments(model, output, *more, concept="cigarette", **options):
    return ["erase", "--concept", concept, "--model", model, "--output", output, "--quiet", *more,
            *flags(**{**OPTIONS, **options})]  # fmt: skip


def same(a, b):
    a, b = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert call_semu(*arguments(tiny_model, folder)) == 0
    return folder


def test_random_kills(whole, tiny_model, tmp_path):
    """Whenever a run is killed, --resume, or the same command where nothing was begun, ends as if it had not been."""
    output, rng, fork = tmp_path / "out", random.Random(0), multiprocessing.get_context("fork")
    for _ in range(KILLS):
        resume = ["--resume"] * (output / ".work" / "config.json").is_file()
        child = fork.Process(target=call_semu, args=arguments(tiny_model, output, *resume))
        child.start()
        child.join(rng.uniform(0.1, 1.5))
        if not child.is_alive():
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        file = output / WEIGHTS
        assert not file.exists() or load_file(file)  # whole or absent
    if (output / ".work").exists() or not (output / "README.md").exists():
        resume = ["--resume"] * (output / ".work" / "config.json").is_file()
        assert call_semu(*arguments(tiny_model, output, *resume)) == 0
    assert same(output, whole) and {p.name for p in output.iterdir()} >= CARDS and not (output / ".work").exists()
    assert not [p for p in output.rglob("*") if LEFT.fullmatch(p.name)]


@pytest.mark.parametrize("stage", ["loss_chart", "plain_pictures", "write_card"])
def test_an_interrupted_evaluation_goes_on(stage, whole, tiny_model, tmp_path, monkeypatch, semu):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"semu_diffusion.evaluation.finish.{stage}", stop)
    status, _, err = semu(*arguments(tiny_model, tmp_path / "out"))
    assert status == 130 and err.endswith("semu: interrupted; go on with --resume\n")
    assert "--resume to go on" in semu(*arguments(tiny_model, tmp_path / "out"))[2]
    monkeypatch.undo()
    assert semu(*arguments(tiny_model, tmp_path / "out", "--resume"))[0] == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in whole.iterdir()}
    assert (
        same(tmp_path / "out", whole)
        and "nothing to resume" in semu(*arguments(tiny_model, tmp_path / "out", "--resume"))[2]
    )


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("shapes"), TypeError(), ValueError("no"), MemoryError()])
@pytest.mark.parametrize("place", ["make_states", "find_bases"])
def test_what_failed_before_training_leaves_the_way_free(error, place, tiny_model, tmp_path, monkeypatch, semu):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(erasure, place, fails)
    status, _, err = semu(*arguments(tiny_model, tmp_path / "out", "--no-evaluate"))
    lines = [line for line in err.splitlines() if "UserWarning" not in line]
    assert status == 2 and lines[-1].startswith("semu: ") and "Traceback" not in err
    kept = place == "find_bases" and isinstance(error, MemoryError)  # what was drawn is of use with more memory
    assert (tmp_path / "out").exists() == kept
    monkeypatch.undo()
    again = ["--resume"] * kept
    assert semu(*arguments(tiny_model, tmp_path / "out", "--no-evaluate", *again))[0] == 0


@pytest.mark.parametrize("name", ["states.safetensors", "checkpoint.safetensors", WEIGHTS, "results.json", "README.md"])
def test_a_disk_that_fills_up(name, whole, tiny_model, tmp_path, monkeypatch, semu):
    from semu_diffusion.adapter import files

    replace = os.replace

    def full(source, target):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    status, out, err = semu(*arguments(tiny_model, tmp_path / "out"))
    assert status == 2 and out == "" and "the disk is full; free some space" in err and "Traceback" not in err
    left = [p.name for p in (tmp_path / "out").rglob("*") if LEFT.fullmatch(p.name)]
    assert not left and not (tmp_path / "out" / name).exists()
    monkeypatch.undo()
    again = ["--resume"] * (tmp_path / "out" / ".work").is_dir()
    assert semu(*arguments(tiny_model, tmp_path / "out", *again))[0] == 0 and same(tmp_path / "out", whole)


def test_a_full_disk_is_foreseen(tiny_model, tmp_path, monkeypatch, semu):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 10, 10))
    status, _, err = semu(*arguments(tiny_model, tmp_path / "out"))
    assert status == 2 and "is too full: what the model draws to learn from needs about" in err
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------- checkpoints of other runs


@pytest.fixture
def begun(tiny_model, tmp_path, monkeypatch):
    """Runs on two concepts, interrupted after some steps."""
    save, folders = erasure.Trainer.save, {}

    def stop(self, optimizer, progress):
        save(self, optimizer, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(erasure.Trainer, "save", stop)
    for concept in ("cigarette", "dog"):
        folders[concept] = tmp_path / concept
        assert call_semu(*arguments(tiny_model, folders[concept], "--no-evaluate", concept=concept)) == 130
    monkeypatch.undo()
    return folders


def test_a_checkpoint_of_another_concept_or_one_with_a_changed_bit(begun, tiny_model, semu):
    own, other = (begun[c] / ".work" / "checkpoint.safetensors" for c in ("cigarette", "dog"))
    whole = own.read_bytes()
    resume = arguments(tiny_model, begun["cigarette"], "--no-evaluate", "--resume")
    own.write_bytes(other.read_bytes())
    status, _, err = semu(*resume)
    assert status == 2 and "is of another erasure; begin again with --overwrite" in err
    own.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    status, _, err = semu(*resume)
    assert status == 2 and "checkpoint.safetensors is damaged" in err and len(err.splitlines()) == 1
    own.write_bytes(whole)
    assert semu(*resume)[0] == 0


@pytest.mark.filterwarnings("ignore:.*drawing the states again")
def test_damaged_states_are_drawn_again(begun, whole, tiny_model, semu):
    file = begun["cigarette"] / ".work" / "states.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    assert semu(*arguments(tiny_model, begun["cigarette"], "--no-evaluate", "--resume"))[0] == 0
    assert same(begun["cigarette"], whole)


def test_two_runs_into_one_folder(begun, tiny_model, semu):
    folder = begun["cigarette"]
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with held_by_another(folder):
        for way in ("--overwrite", "--resume"):
            status, out, err = semu(*arguments(tiny_model, folder, "--no-evaluate", way))
            assert status == 2 and "another run is writing into" in err and len(err.splitlines()) == 1
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert semu(*arguments(tiny_model, folder, "--no-evaluate", "--resume"))[0] == 0


def test_overwriting_leaves_what_is_not_ours(begun, tiny_model, tmp_path, semu):
    folder = begun["cigarette"]
    (folder / "gallery").mkdir()
    for name in ("notes.txt", "gallery/mine.png", "gallery/base-00.png"):
        (folder / name).write_text("mine")
    assert semu(*arguments(tiny_model, folder, "--no-evaluate", "--overwrite"))[0] == 0
    assert (folder / "notes.txt").exists() and [p.name for p in (folder / "gallery").iterdir()] == ["mine.png"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("mine")
    for command in (arguments(tiny_model, tmp_path / "thesis", "--overwrite"),
                    ["export", folder, "--output", tmp_path / "thesis", "--model", tiny_model, "--overwrite"],
                    ["classify", "--output", tmp_path / "thesis", "--overwrite"],
                    ["attack", folder, "--output", tmp_path / "thesis", "--overwrite"],
                    ["eval", folder, "--output", tmp_path / "thesis", "--overwrite"]):  # fmt: skip
        status, _, err = semu(*command)
        assert status == 2 and "holds what semu did not write (such as README.md)" in err, command
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["README.md"]


def test_a_run_killed_before_it_began_is_no_run(tiny_model, tmp_path, semu):
    (tmp_path / "out" / ".work").mkdir(parents=True)
    status, _, err = semu(*arguments(tiny_model, tmp_path / "out", "--resume"))
    assert status == 2 and "nothing to resume" in err and "leave out --resume" in err
    assert semu(*arguments(tiny_model, tmp_path / "out", "--no-evaluate"))[0] == 0


def test_an_evaluation_says_that_it_is_done_after_its_charts(tmp_path, monkeypatch, semu):
    """Stopped while it writes its report it is not finished, and the same command goes on."""
    from semu_diffusion.cli import evaluate
    from semu_diffusion.evaluation import measure
    from semu_diffusion.evaluation.drawing import MADE_BY

    def runs(pipe, concepts, *_, folder, **__):
        (folder / "base").mkdir(exist_ok=True)
        (folder / "base" / MADE_BY).write_text("{}")
        return {"base": {}, "erased": {}}, {}

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "open_adapted", lambda run: (None, tmp_path, None))
    monkeypatch.setattr(measure, "adapter_facts", lambda *_: {})
    monkeypatch.setattr(measure.Measured, "recorded", lambda self: {})
    monkeypatch.setattr(measure, "run_pictograms", runs)
    monkeypatch.setattr(measure, "family_of", lambda pipe: SimpleNamespace(reads_text=True))
    words = [
        "eval",
        "adapter",
        "--suite",
        "pictograms",
        "--concept",
        "cigarette",
        "--output",
        tmp_path / "out",
        "--quiet",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(measure, "write_report", stop)
        status, _, err = semu(*words)
    assert (status, err) == (130, "semu: interrupted; the same command goes on\n")
    assert not (tmp_path / "out" / "evaluation.json").exists()
    monkeypatch.setattr(measure, "write_report", lambda *_: None)
    assert semu(*words)[0] == 0 and (tmp_path / "out" / "evaluation.json").is_file()
    assert "--overwrite" in semu(*words)[2]


@pytest.mark.parametrize("stage", ["write_card", "save_classifier"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("of a library")])
def test_a_classifier_that_is_stopped_while_it_is_written(error, stage, tmp_path, monkeypatch, semu):
    def stop(*_, **__):
        raise error

    words = ["classify", "--width", 1, "--train-epochs", 0, "--epochs", 1, "--max-rank", 1, "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(f"semu_diffusion.classification.comparison.{stage}", stop)
        status, _, err = semu(*words, "--output", tmp_path / "out")
    said = "interrupted; nothing was written; run it again" if status == 130 else "unexpected RuntimeError"
    assert status in (2, 130) and said in err and not (tmp_path / "out").exists()


def test_attack_keeps_its_references(tmp_path, monkeypatch, assets):
    from semu_diffusion.attacks import judge

    drawn, begun = [], time.monotonic()

    class Base:
        pipe = type("Pipe", (), {"name_or_path": "pictograms"})()

        def draw_prompts(self, prompts, seeds, steps, guidance):
            if len(drawn) == 2:
                drawn.append("stop")
                raise KeyboardInterrupt
            drawn.append(len(prompts))
            return torch.tensor(seeds, dtype=torch.float32)[:, None]

    config = type("Config", (), {"steps": 2, "guidance": 3.0})()
    with pytest.raises(KeyboardInterrupt):
        judge.draw_references(Base(), config, tmp_path)
    found = judge.draw_references(Base(), config, tmp_path)
    assert sum(n for n in drawn if n != "stop") == len(found) and found[0] == judge.REFERENCE
    file = sorted(tmp_path.iterdir())[0]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    again = judge.draw_references(Base(), config, tmp_path)
    assert torch.equal(again, found) and drawn[-1] == judge.PART and time.monotonic() - begun < 60
