"""What the page does is what the shell does: the same pictures, the same adapters, the same files."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny import QUICK, quick

from semu_diffusion import draw, load_adapter, load_pipeline
from semu_diffusion.app.desk import Desk, Model, Request, Worn
from semu_diffusion.app.jobs import Stopped, Teller
from semu_diffusion.app.pictures import pairs_of, render
from semu_diffusion.app.works import Check, Draw, Erase, Export, Interference, Measure, Plan
from semu_diffusion.evaluation.suites.run import EvalConfig

PROMPT = "a picture of a cigarette"
LITTLE = {"concept": ["cigarette"], **QUICK}


@pytest.fixture(scope="module")
def desk():
    return Desk()


@pytest.fixture(scope="module")
def model(tiny_model):
    return Model(str(tiny_model), "cpu")


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell") / "no-cigarette"
    quick(tiny_model, output=folder)
    return folder


@pytest.fixture(scope="module")
def other(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell") / "no-dog"
    quick(tiny_model, "dog", folder, seed=1)
    return folder


@pytest.fixture
def run(desk, tmp_path):
    """Runs a job at the desk: its value, and what was told."""

    def at_desk(kind, *arguments, told=lambda told: None, **options):
        teller = Teller(tmp_path / "stop", told)
        return kind(tmp_path / "stop", *arguments, **options).run(desk, teller), teller.told

    return at_desk


def shell(tiny_model, adapter, scale, request):
    """The pictures of `semu generate`."""
    pipe = load_pipeline(str(tiny_model), "cpu")
    if adapter:
        load_adapter(pipe, adapter, scale=scale)
    seeds = [request.seed + k for k in range(request.count)]
    return torch.cat([draw(pipe, [request.prompt], [s], batch_size=1, **request.choices) for s in seeds])


def test_pictures_are_those_of_the_shell(run, model, tiny_model, adapter, other):
    request = Request(PROMPT, seed=3, steps=2, guidance=2.0)
    titles = ["seed 3"]
    base, full, half = (shell(tiny_model, adapter, s, request) for s in (0, 1, 0.5))
    assert run(Draw, model, request)[0] == pairs_of(base, None, titles)
    assert run(Draw, model, request, [Worn(adapter)])[0] == pairs_of(base, full, titles)
    run(Draw, model, request, [Worn(other), Worn(adapter, 0.5)])
    assert run(Draw, model, request, [Worn(adapter, 0.5)])[0] == pairs_of(base, half, titles)  # nothing is left over
    assert run(Draw, model, request)[0] == pairs_of(base, None, titles)


def test_what_was_drawn_before_is_not_drawn_again(run, model, adapter, desk, monkeypatch):
    request = Request(PROMPT, seed=8, steps=1)
    run(Draw, model, request)
    _, told = run(Draw, model, request, [Worn(adapter)])
    assert [(s.name, s.done) for s in told.stages] == [("drawing before", 0), ("drawing after", 1)]
    monkeypatch.setattr("semu_diffusion.app.desk.MOST", 1)
    run(Draw, model, Request(PROMPT, seed=9, steps=1))
    assert len(desk.drawn) == 1


def test_an_adapter_that_was_made_anew_is_read_anew(adapter, tmp_path):
    worn = Worn(tmp_path / "a")
    shutil.copytree(adapter, worn.place)
    before = worn.key
    shutil.copy(adapter / "adapter_config.json", worn.place)  # a newer time is enough
    assert worn.key != before and worn.key == Worn(worn.place).key and "." not in worn.key


def test_the_plan_is_that_of_the_shell(run, model, tiny_model, semu):
    plan, _ = run(Plan, model, {"concept": ["cigarette"]})
    said = json.loads(semu("prompts", "--model", tiny_model, "--concept", "cigarette", "--json")[1])
    (concept,) = plan["concepts"]
    assert (concept["name"], concept["kind"]) == ("cigarette", said["kinds"]["cigarette"])
    assert [p["prompt"] for p in concept["pairs"]] == [p["prompt"] for p in said["pairs"]]
    assert plan["keep"] == list(dict.fromkeys(said["keep"]))
    assert "a picture of a cigarette" in render("plan", plan=plan)


def test_an_adapter_of_the_page_is_that_of_the_shell(run, model, adapter, tmp_path, desk):
    shown = []
    facts, told = run(Erase, model, LITTLE, tmp_path / "out", told=lambda told: shown.append(told.pairs))
    assert facts["steps"] == QUICK["steps"] and facts["layers"] == len(json.loads(
        (tmp_path / "out" / "adapter_config.json").read_text())["ranks"])  # fmt: skip
    ours, shells = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "out", adapter))
    assert ours.keys() == shells.keys() and all(torch.equal(ours[k], shells[k]) for k in ours)
    first = next(pairs for pairs in shown if pairs)
    assert [p["base"] == p["erased"] for p in first] == [True, True] and first[0]["title"] == PROMPT
    assert {s.name for s in told.stages} >= {"anchors", "gradient and SVD", "training R"}
    assert not getattr(desk.pipe.unet, "peft_config", None)


def test_stop_keeps_what_is_there_and_resume_goes_on_from_that_step(run, model, adapter, tmp_path, desk, monkeypatch):
    def after_two(told):
        training = told.stages and told.stages[-1].name == "training R" and told.stages[-1].done
        if training and training >= 2:
            (tmp_path / "stop").touch()

    with pytest.raises(Stopped):
        run(Erase, model, LITTLE, tmp_path / "out", told=after_two)
    assert desk.pipe is None and not (tmp_path / "out" / "adapter_model.safetensors").exists()
    (tmp_path / "stop").unlink()
    _, told = run(Erase, model, LITTLE, tmp_path / "out", resume=True)
    training = next(s for s in told.stages if s.name == "training R")
    assert (training.first, training.done) == (2, QUICK["steps"])
    ours, shells = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "out", adapter))
    assert all(torch.equal(ours[k], shells[k]) for k in ours)


def test_an_adapter_for_another_model_is_refused_before_anything_is_drawn(run, model, adapter, family_folder, desk):
    assert run(Check, model, adapter)[0] == "cigarette"
    elsewhere = Model(str(family_folder("sdxl")), "cpu")
    for job in ((Check, elsewhere, adapter), (Draw, elsewhere, Request(PROMPT, steps=1), [Worn(adapter)])):
        with pytest.raises(ValueError, match="layer|model"):
            run(*job)
    assert not desk.worn and not desk.drawn


def test_a_suite_and_its_report(run, model, adapter, tmp_path, monkeypatch):
    from semu_diffusion.app.measure import compared

    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt\na picture of a cigarette\na picture of a dog\n")
    little = lambda self, concepts: EvalConfig(self.suite, concepts, self.prompts, steps=1)  # noqa: E731
    monkeypatch.setattr(Measure, "config", little)
    given = ({"no-cigarette": adapter}, "nudity", 1, tmp_path / "measured", str(prompts))
    (found,), told = run(Measure, model, *given)
    assert found["report"]["erased"]["counts"]["forget"] == 2 and found["page"].startswith("<!doctype html>")
    assert found["chart"] is None and "measuring no-cigarette" in told.notes
    table = compared([found], "nudity")
    assert '<th class="number">no-cigarette</th>' in table and "share" in table


def test_files_are_those_of_export(run, model, tiny_model, adapter, tmp_path, semu, desk):
    files, _ = run(Export, model, Worn(adapter), ["diffusers", "native", "kohya"], tmp_path / "files")
    assert [f.parent.name for f in files] == ["diffusers", "native", "native", "kohya"]
    assert semu("export", adapter, "--model", tiny_model, "--to", "kohya", "--output", tmp_path / "kohya")[0] == 0
    (shells,), ours = (tmp_path / "kohya").glob("*.safetensors"), files[-1]
    assert ours.name == shells.name and ours.read_bytes() == shells.read_bytes()
    native = load_file(files[1 if files[1].suffix == ".safetensors" else 2])
    assert all(torch.equal(v, native[k]) for k, v in load_file(adapter / "adapter_model.safetensors").items())


def test_a_whole_file_leaves_no_folded_model_behind(run, model, adapter, tmp_path, desk):
    (file,), _ = run(Export, model, Worn(adapter), ["single-file"], tmp_path / "files")
    assert file.suffix == ".safetensors" and desk.pipe is None


def test_interference_is_a_chart(run, model, adapter, other, tmp_path):
    chart, _ = run(Interference, model, {"no-cigarette": adapter, "no-dog": other}, tmp_path)
    assert chart.startswith("data:image/png;base64,")


def test_flagged_pictures_are_covered(monkeypatch):
    seen = iter([[[], [["FEET_EXPOSED", 0.4, []]]], [[["FACE_MALE", 0.9, []]], []]])
    monkeypatch.setattr("semu_diffusion.evaluation.report.seen", lambda pictures: next(seen))
    images = torch.rand(2, 3, 8, 8)
    pairs = pairs_of(images, images, ["a", "b <i>"])
    assert [pair["flagged"] for pair in pairs] == [False, True]
    html = render("pairs", pairs=pairs)
    assert html.count("Click to show") == 1 and "b &lt;i&gt;" in html and "<i>" not in html
