"""Other methods than SEMU by `--method`: what they write, what plain diffusers makes of it, and what is refused."""

import importlib.metadata
import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny import flags

from semu_diffusion.adapter import SemuConfig
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure
from semu_diffusion.diffusion.concepts import vocabulary_of
from semu_diffusion.diffusion.erasers import Eraser, eraser_of, known
from semu_diffusion.diffusion.erasers import registry as erasers
from semu_diffusion.diffusion.erasers.run import check_fits, put_deltas
from semu_diffusion.diffusion.erasers.task import Task
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.merging import merged_about
from semu_diffusion.diffusion.plan import make_plan
from semu_diffusion.diffusion.scene import Given
from semu_diffusion.evaluation.suites.pictograms import ROWS
from semu_diffusion.hub.card import write_card
from semu_diffusion.hub.contents import read_contents

TRAINED = {"steps": 2, "batch_size": 4, "latents": 4, "sampler_steps": 3}
WHOLE = {"compress": 1.0, "precision": "fp32"}


def task_of(folder, method: str, **options) -> Task:
    """What the method is given for the tiny model."""
    config = EraseConfig("cigarette", method=method, sampler_steps=3, **options)
    family = family_of(load_pipeline(str(folder), "cpu"))
    family.model.requires_grad_(False).eval()
    plan, config = make_plan(family, config, vocabulary_of(folder), [], Callback())
    return Task(family, config, plan.pairs, ["cigarette"], plan.keep)


@pytest.fixture(scope="module")
def uce(tiny_model, tmp_path_factory):
    """The folder of an erasure with UCE, whole and in fp32, and what UCE adds to each layer."""
    folder = tmp_path_factory.mktemp("uce") / "out"
    run_erasure(str(tiny_model), EraseConfig("cigarette", method="uce", **WHOLE), folder)
    return folder, eraser_of("uce").edit(task_of(tiny_model, "uce"))


def latents_of(pipe) -> torch.Tensor:
    """What a UNet answers to a prompt."""
    text = pipe.encode_prompt("a cigarette in neon style", "cpu", 1, False)[0]
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return pipe.unet(x, 500, text).sample


def test_plain_diffusers_loads_exactly_the_edit(uce, tiny_model):
    folder, deltas = uce
    plain, edited = (StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None) for _ in range(2))
    base = latents_of(plain)
    plain.load_lora_weights(folder)
    with torch.no_grad():
        for name, D in deltas.items():
            edited.unet.get_submodule(name).weight += D
    torch.testing.assert_close(latents_of(plain), latents_of(edited), rtol=1e-4, atol=1e-5)
    assert (latents_of(plain) - base).abs().max() > 1e-3


def test_it_says_what_made_it(uce):
    folder, deltas = uce
    results = json.loads((folder / "results.json").read_text())
    assert results["options"]["method"] == "uce" and "gamma" not in results["options"]
    assert results["training"]["method"] == "UCE" and results["training"]["steps"] == 0
    assert results["training"]["trained"] == sum(D.numel() for D in deltas.values())
    assert results["training"]["seconds"] > 0 and results["training"]["written"]["error"] < 1e-5
    write_card(folder, results, ROWS)
    card = (folder / "README.md").read_text()
    assert "Made with UCE ([arXiv 2308.14761]" in card and "A SEMU adapter" not in card and "\n- semu\n" not in card
    native, lora = read_contents(folder), read_contents(folder / "pytorch_lora_weights.safetensors")
    assert native.about["method"] == lora.about["method"] == "UCE" and "gamma" not in native.about
    assert lora.header["modelspec.description"].startswith("UCE adapter for ")
    assert lora.about["paper"] == "arXiv 2308.14761"


@pytest.mark.parametrize("method", ["esd-x", "concept-ablation"])
def test_trained_methods_leave_the_model_as_it_was(method, tiny_model):
    task = task_of(tiny_model, method, **{k: v for k, v in TRAINED.items() if k != "sampler_steps"})
    before = {name: p.clone() for name, p in task.model.named_parameters()}
    deltas = eraser_of(method).edit(task)
    assert all(torch.equal(p, before[name]) for name, p in task.model.named_parameters())
    assert all(".attn2." in name and D.any() for name, D in deltas.items()) and len(task.history) == 2
    assert not any(m._forward_hooks for m in task.model.modules())
    prompts = {pair.prompt for pair in task.pairs}
    assert (prompts == {"cigarette"}) == (method == "esd-x")  # the bare name, as its authors train it


def test_the_name_alone_or_sentences(tiny_model):
    pairs = {p: task_of(tiny_model, "concept-ablation", prompts=p).pairs for p in ("name", "sentences")}
    assert [p.prompt for p in pairs["name"]] == ["cigarette"] and pairs["name"][0].anchor
    assert len(pairs["sentences"]) > 5
    assert {p.prompt for p in task_of(tiny_model, "esd-x", prompts="sentences").pairs} > {"a cigarette"}


def test_an_edit_that_cannot_be_written(tiny_model):
    task = task_of(tiny_model, "uce")
    name = next(name for name, _ in task.model.named_modules() if name.endswith("attn2.to_k"))
    D = torch.zeros_like(task.model.get_submodule(name).weight)
    with pytest.raises(ValueError, match="changes nothing"):
        put_deltas(task.family, {name: D}, task.config, {})
    with pytest.raises(ValueError, match="not finite"):
        put_deltas(task.family, {name: D / 0}, task.config, {})


# ------------------------------------------------------------------------------------------- in the shell


def test_the_shell_erases_with_another_method(tiny_model, tmp_path, semu):
    folder = tmp_path / "out"
    common = ["erase", "--concept", "cigarette", "--model", tiny_model, "--output", folder, "--no-evaluate", "--quiet"]
    status, out, err = semu(*common, "--method", "esd-x", *flags(**TRAINED))
    assert status == 0 and "2 steps" in out, err
    assert {"adapter_model.safetensors", "pytorch_lora_weights.safetensors", "results.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert len(json.loads((folder / "results.json").read_text())["history"]) == 2
    picture = tmp_path / "a.png"
    assert semu("generate", folder, "--prompt", "a cat", "--model", tiny_model, "--steps", 1, "--quiet", "--output", picture)[0] == 0  # noqa: E501  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "magic"], "unknown method 'magic'; known: semu, uce, esd-x, concept-ablation"),
        (
            ["--method", "uce", "--gamma", "0.8"],
            "--gamma is no option of uce; besides what to forget it takes --anchor",
        ),
        (["--method", "uce", "--steps", "7"], "--steps is no option of uce"),
        (["--method", "esd-x", "--objective", "redirect"], "--objective is no option of esd-x"),
        (["--method", "esd-x", "--anchor", "cat"], "the objective negative has no anchor"),
        (["--method", "esd-x", "--max-memory", "1"], "--max-memory is no option of esd-x"),
        (["--method", "uce", "--resume"], "uce does not go on where it stopped; leave out --resume"),
        (["--prompts", "all"], "prompts must be one of name, sentences"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(options, says, tmp_path, semu):
    nowhere = ["--model", tmp_path / "absent", "--output", tmp_path / "out"]
    status, out, err = semu("erase", "--concept", "cigarette", *options, *nowhere)
    assert (status, out) == (2, "") and says in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_family_that_it_does_not_fit_is_said_before_weights_are_read(family_folder, tmp_path, semu):
    model = tmp_path / "flux"
    shutil.copytree(family_folder("flux"), model, ignore=shutil.ignore_patterns("*.safetensors"))
    status, _, err = semu("erase", "--concept", "cat", "--method", "uce", "--model", model, "--output", tmp_path / "a")
    assert status == 2 and "uce does not fit FluxPipeline; it is for: Stable Diffusion 1.x/2.x" in err
    with pytest.raises(ValueError, match="does not fit FluxPipeline"):
        check_fits("esd-x", type("FluxPipeline", (), {}))
    check_fits("semu", type("FluxPipeline", (), {}))


@pytest.mark.parametrize("method", ["uce", "esd-x"])
def test_stable_diffusion_xl(method, family_folder, tmp_path):
    more = {"anchor": "dog"} if method == "uce" else TRAINED
    config = EraseConfig("cat", method=method, **more)
    found = run_erasure(str(family_folder("sdxl")), config, tmp_path / "out")
    assert found.facts["layers"] > 0 and (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


# ----------------------------------------------------------------------------------- of other packages


class Point:
    """An entry point."""

    group = erasers.GROUP

    def __init__(self, name: str, found):
        self.name, self.value, self.found = name, f"theirs:{name.upper()}", found

    def load(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def add_to_first(task: Task) -> dict[str, torch.Tensor]:
    """An edit of one layer."""
    name = next(name for name, _ in task.model.named_modules() if name.endswith("attn2.to_v"))
    return {name: 0.1 * torch.ones_like(task.model.get_submodule(name).weight)}


@pytest.fixture
def offered(monkeypatch):
    """Erasers that other packages offer."""

    def offer(*points: Point):
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [p for p in points if p.group == group])

    return offer


def test_an_eraser_of_another_package(offered, tiny_model, tmp_path):
    mine = Eraser("Mine", "a report", add_to_first, ("StableDiffusion",), ("steps",), {"compress": 1.0})
    offered(Point("mine", mine))
    assert known()[-1] == "mine"
    config = EraseConfig("cigarette", method="mine", steps=3)
    facts = run_erasure(str(tiny_model), config, tmp_path / "out").facts
    assert facts["method"] == "Mine" and facts["layers"] == 1 and facts["written"]["ranks"] == 1
    assert read_contents(tmp_path / "out").about["paper"] == "a report"


@pytest.mark.parametrize(
    ("name", "found", "says"),
    [
        ("broken", ImportError("no module named x"), "cannot be loaded from theirs:BROKEN: no module named x"),
        ("number", 7, "is a int in theirs:NUMBER, not an Eraser"),
        ("uce", None, "the method uce of this package is also offered by theirs:UCE"),
    ],
)
def test_an_eraser_of_another_package_that_cannot_be_used(name, found, says, offered):
    offered(Point(name, found))
    with pytest.raises(ValueError, match=says):
        EraseConfig("cat", method=name)


def test_a_merged_adapter_names_the_methods_of_its_parts():
    made = [{"method": "UCE", "paper": "arXiv 1", "concept": ["a"]}, {"concept": ["b"]}]
    adapters = [Given(f"g{k}", SemuConfig(about=about), {}, 1.0, str(k)) for k, about in enumerate(made)]
    about = merged_about(adapters, 1.0, "base", "sum")
    assert about["method"] == "UCE and SEMU" and about["paper"] == "arXiv 1"
    assert "method" not in merged_about(adapters[1:], 1.0, "base", "sum")
