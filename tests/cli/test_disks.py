"""Disks that take no more, are read-only, or whose folder goes away: one line, nothing half-written, in every command.

What may be written is limited by the system itself (RLIMIT_FSIZE), so that it is felt by whatever library writes.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from adapters import put_on
from classifiers import Net, pictures
from tiny import QUICK, flags
from tiny_clip import build_clip

from semu_diffusion import load_pipeline
from semu_diffusion.adapter.claims import LEFT, check_writable, claimed
from semu_diffusion.adapter.files import disk_error
from semu_diffusion.attacks import judge
from semu_diffusion.classification import UnlearnConfig, random_split
from semu_diffusion.classification.comparison import Training, compare
from semu_diffusion.classification.data import Data
from semu_diffusion.diffusion.pipeline import save_adapters
from semu_diffusion.hub.transfer import pull, push_to_hub

FORMATS = ("native", "diffusers", "kohya", "merged", "single-file")


@pytest.fixture(scope="module")
def desk(tiny_model, tmp_path_factory):
    """An adapter for the tiny model, a CLIP model and labelled prompts."""
    folder = tmp_path_factory.mktemp("desk")
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    save_adapters(pipe, folder / "adapter", {"concept": ["cigarette"], "base_model": str(tiny_model)})
    save_adapters(pipe, folder / "other", {"concept": ["dog"], "base_model": str(tiny_model)})
    build_clip(folder / "clip")
    (folder / "prompts.csv").write_text("prompt,label\na cigarette,cigarette\na dog,dog\na cat,cat\n")
    return folder


@pytest.fixture
def commands(desk, tiny_model):
    """Command -> its words for an output folder."""
    adapter, base = desk / "adapter", ["--model", tiny_model]
    suite = ["--suite", "custom", "--prompts", desk / "prompts.csv", "--clip", desk / "clip", "--steps", 1, "--quiet"]
    forget = ["--train-epochs", 0, "--epochs", 1, "--width", 2, "--max-rank", 2, "--quiet"]
    words = {
        "erase": lambda out: ["erase", "--concept", "cigarette", *base, "--quiet", *flags(**QUICK), "--output", out],
        "generate": lambda out: ["generate", adapter, *base, "--prompt", "a", "--steps", 1, "-q", "--output", out],
        "eval": lambda out: ["eval", adapter, *base, *suite, "--output", out],
        "merge": lambda out: ["merge", adapter, desk / "other", *base, "--output", out],
        "attack": lambda out: ["attack", adapter, "--concept", "cigarette", "--quiet", "--output", out],
        "classify": lambda out: ["classify", *forget, "--output", out],
    }
    exports = {f"export {f}": lambda out, f=f: ["export", adapter, *base, "--to", f, "--output", out] for f in FORMATS}
    return {**words, **exports}


@contextlib.contextmanager
def at_most(size):
    """No file may become larger than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.exists() else []


def one_line(result, *words):
    status, out, err = result
    lines = [line for line in err.splitlines() if "Warning" not in line and "it/s" not in line]
    assert status == 2 and out == "" and "Traceback" not in err and "unexpected" not in err, err
    assert lines[-1].startswith("semu: ") and any(word in lines[-1] for word in words), err


# --------------------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize("size", [0, 2000])
@pytest.mark.parametrize("name", ["generate", "merge", *(f"export {form}" for form in FORMATS)])
def test_a_command_that_cannot_write_leaves_nothing(name, size, commands, tmp_path, semu):
    if name == "generate":
        size //= 10  # less than a picture
    with at_most(size):
        one_line(semu(*commands[name](tmp_path / "out")), "ulimit -f")
    assert files_in(tmp_path / "out") == []


@pytest.mark.parametrize("size", [0, 500, 1500])  # before and among the pictures, and after them
def test_an_evaluation_goes_on_once_there_is_room(size, commands, tmp_path, semu):
    with at_most(size):
        one_line(semu(*commands["eval"](tmp_path / "out")), "ulimit -f")
    left = files_in(tmp_path / "out")
    assert "evaluation.json" not in left and not [p for p in left if LEFT.fullmatch(p.rpartition("/")[2])]
    status, _, err = semu(*commands["eval"](tmp_path / "out"))
    assert status == 0, err
    json.loads((tmp_path / "out" / "evaluation.json").read_text())


@pytest.mark.parametrize("size", [0, 1000, 30_000])  # config.json, states, adapter
def test_an_erasure_goes_on_once_there_is_room(size, commands, tmp_path, semu):
    words = [*commands["erase"](tmp_path / "out"), *flags(latents=2, sampler_steps=1, steps=1), "--no-evaluate"]
    with at_most(size):
        one_line(semu(*words), "ulimit -f")
    again = ["--resume"] * (tmp_path / "out" / ".work" / "config.json").is_file()
    assert not [p for p in files_in(tmp_path / "out") if LEFT.fullmatch(p.rpartition("/")[2])]
    assert semu(*words, *again)[0] == 0


def test_a_report_and_a_chart_leave_the_old_ones(desk, commands, tmp_path, semu):
    assert semu(*commands["eval"](tmp_path / "out"))[0] == 0
    (tmp_path / "out" / "report.html").write_text("old")
    (tmp_path / "ranks.png").write_text("old")
    before = files_in(tmp_path)
    with at_most(3000):
        one_line(semu("report", tmp_path / "out"), "ulimit -f")
        one_line(semu("inspect", desk / "adapter", "--output", tmp_path / "ranks.png"), "ulimit -f")
    assert files_in(tmp_path) == before
    assert (tmp_path / "out" / "report.html").read_text() == (tmp_path / "ranks.png").read_text() == "old"


@pytest.mark.parametrize("size", [0, 500, 3000])
def test_a_classifier_leaves_nothing_half_written(size, tmp_path):
    data = Data(pictures(60, 0), pictures(20, 1), pictures(20, 2), [str(k) for k in range(4)], "noise")
    split = random_split(data.train.y, 0.2)
    config = UnlearnConfig(epochs=1, max_rank=2)
    result = compare(Net(), data, split, Training(epochs=0), config, 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("old")
    with at_most(size), pytest.raises(OSError) as caught:
        result.save(tmp_path / "out", "net", "noise")
    assert disk_error(caught.value) and files_in(tmp_path / "out") == ["results.json"]
    assert (tmp_path / "out" / "results.json").read_text() == "old"
    result.save(tmp_path / "out", "net", "noise")
    assert {"results.json", "split.json", "README.md", "base"} <= set(files_in(tmp_path / "out"))


def test_an_attack_keeps_the_parts_that_there_was_room_for(tmp_path):
    class Base:
        pipe = type("Pipe", (), {"name_or_path": "pictograms"})()

        def draw_prompts(self, prompts, seeds, steps, guidance):
            return torch.rand(len(seeds), 3, 2, 2)

    config = type("Config", (), {"steps": 2, "guidance": 3.0})()
    with at_most(1000), pytest.raises(OSError, match="File too large.*references-0000"):
        judge.draw_references(Base(), config, tmp_path)
    assert files_in(tmp_path) == []
    assert len(judge.draw_references(Base(), config, tmp_path)) == 288


def test_a_cache_without_room_is_no_trouble_of_the_hub(hub, desk, tmp_path):
    push_to_hub(desk / "adapter", "someone/adapter")
    with at_most(2000), pytest.raises(OSError) as caught:
        pull("someone/adapter")
    assert disk_error(caught.value) is caught.value
    assert pull("someone/adapter").is_dir()


def test_what_a_disk_says_is_found_behind_other_errors():
    def raised(*errors):
        try:
            for error in errors:
                try:
                    raise error
                except Exception:
                    continue
            raise RuntimeError("of a library") from errors[0]
        except RuntimeError as last:
            return last

    full, refused = OSError(28, "No space left"), ConnectionRefusedError(111, "refused")
    assert disk_error(raised(full)) is full and disk_error(raised(refused)) is None
    assert disk_error(None) is None and disk_error(OSError("no number")) is None


# --------------------------------------------------------------------------- places that cannot be written


@pytest.mark.parametrize("name", ["erase", "generate", "eval", "merge", "attack", "classify", "export merged"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(name, commands, tmp_path, monkeypatch, semu):
    def works(*_, **__):
        raise AssertionError("worked before it looked at the folder")

    for place in ("diffusion.load_pipeline", "diffusion.loading.load_pipeline", "classification.data.load_data"):
        monkeypatch.setattr(f"semu_diffusion.{place}", works)
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file" / "out", tmp_path / "file"):
        one_line(semu(*commands[name](folder)), "cannot write into", "is a file; give a folder")
    assert files_in(tmp_path) == ["file"]


def refused_in(folder):
    """Ends with status 0 where somebody who is not root, whom modes do not bind, may not write there."""
    os.getuid() or os.setuid(65534)
    for call in (check_writable, lambda place: claimed(place).__enter__()):
        with pytest.raises(ValueError, match="cannot write into .*closed/out"):
            call(folder)


def test_a_folder_without_the_right_to_write():
    with tempfile.TemporaryDirectory() as name:  # not `tmp_path`, which only its owner may enter
        folder = Path(name)
        (folder / "closed").mkdir()
        (folder / "closed").chmod(0o555)
        folder.chmod(0o755)
        child = multiprocessing.get_context("fork").Process(target=refused_in, args=(folder / "closed" / "out",))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        check_writable(folder / "not" / "yet")
        assert files_in(folder) == ["closed"]


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("erase", "semu_diffusion.diffusion.erasure.find_bases"),
        ("eval", "semu_diffusion.evaluation.suites.run.mark_natural"),
        ("export kohya", "semu_diffusion.diffusion.export.kohya_layers"),
    ],
)
def test_a_folder_that_is_removed_while_a_run_goes_on(name, stage, commands, tmp_path, monkeypatch, semu):
    module, _, function = stage.rpartition(".")
    original = getattr(importlib.import_module(module), function)

    def removing(*arguments, **options):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return original(*arguments, **options)

    monkeypatch.setattr(stage, removing)
    one_line(semu(*commands[name](tmp_path / "out")), "was it removed while the run went on?")
