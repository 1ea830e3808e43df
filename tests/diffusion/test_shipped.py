"""The models in the package go by name, and what the class-conditional one draws in place of an erased class."""

import json

import pytest
import torch
from diffusers import DDIMPipeline
from shell import call_semu
from tiny_families import load_family

from semu_diffusion import draw, load_pipeline
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion.concepts import vocabulary_of
from semu_diffusion.diffusion.config import EraseConfig
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.nearest import nearest_class
from semu_diffusion.diffusion.pipeline import ASSETS, SHIPPED, is_embedded, model_path, shipped_name
from semu_diffusion.diffusion.plan import STRENGTH, make_plan

FEW = {"sampler_steps": 6, "guidance": 3.0}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def photos():
    return family_of(load_pipeline("cifar10", "cpu"))


def plan_of(family, gone=(), **options):
    options = {**FEW, "keep_latents": 20, **options}
    return make_plan(family, EraseConfig(**options), vocabulary_of(model_path("cifar10")), list(gone), Callback())


def test_the_names_are_those_of_the_folders():
    assert sorted(SHIPPED) == sorted(f.parent.name for f in ASSETS.glob("*/model_index.json"))
    for name in SHIPPED:
        folder = str(ASSETS / name)
        assert model_path(name) == folder and shipped_name(folder) == shipped_name(name) == name
        assert is_embedded(name) is is_embedded(folder) is (name == "pictograms")
    assert model_path("some/one") == shipped_name("some/one") == "some/one" and shipped_name("") == ""


def test_the_second_one_is_small_whole_and_drawn_in_fp32(photos):
    assert tuple(photos.names) == CLASSES and photos.empty == "" and photos.dtype == torch.float32
    assert (ASSETS / "cifar10" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size < 25e6
    assert DDIMPipeline.from_pretrained(ASSETS / "cifar10").unet.config.num_class_embeds == 11
    words = {p: torch.stack(list(draw(photos.pipe, [p] * 6, list(range(6)), 6, 2.5))) for p in ("ship", "frog")}
    blue = {p: (x[:, 2] - x[:, 1]).mean().item() for p, x in words.items()}
    assert blue["ship"] > 0 > blue["frog"]  # the sea and the sky; the grass


def test_its_card_says_what_the_check_found():
    card, check = ((ASSETS / "cifar10" / name).read_text() for name in ("README.md", "check.json"))
    found = json.loads(check)
    assert f"{found['accuracy']:.1f} %; of as many test pictures, {found['real_accuracy']:.1f} % right" in card
    assert f"{found['fid']:.2f} drawn, {found['fid_test']:.2f} for as many test pictures" in card


@pytest.mark.parametrize("concept, expected", [("airplane", "ship"), ("automobile", "truck"), ("5", "cat")])
def test_a_class_becomes_the_one_that_is_drawn_most_like_it(photos, concept, expected):
    plan, config = plan_of(photos, concept=concept)
    assert plan.anchors == {concept: [expected]} and config.strength == STRENGTH[False]
    name = photos.names[photos.label(concept)]
    assert [(p.prompt, p.anchor) for p in plan.pairs] == [(name, expected)] and name not in plan.keep


def test_what_is_asked_for_or_gone_goes_before(photos):
    assert plan_of(photos, concept="airplane", anchor="")[0].anchors == {"airplane": [""]}
    assert plan_of(photos, concept="airplane", anchor="next")[0].anchors == {"airplane": ["automobile"]}
    assert plan_of(photos, concept="airplane", objective="negative")[0].anchors == {"airplane": [""]}
    both, _ = plan_of(photos, concept=["airplane", "ship"])
    assert set(both.anchors) == {"airplane", "ship"} and not {"airplane", "ship"} & {p.anchor for p in both.pairs}
    for ship in ("ship", "8"):
        on_top, _ = plan_of(photos, gone=[ship], concept="airplane")
        assert on_top.anchors["airplane"] != ["ship"] and "ship" not in on_top.keep


def test_the_nearest_class_is_the_one_with_almost_the_same_embedding(family_folder):
    family = family_of(load_family(family_folder("classes")))
    rows = family.model.class_embedding.weight.data
    rows[1] = rows[3] + 1e-3 * torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0))
    others = [name for name in family.names if name != "3"]
    assert nearest_class(family, "3", others, EraseConfig(concept="3", **FEW)) == "1"


@pytest.fixture(scope="module")
def gone(tmp_path_factory):
    """The folder of an adapter for class 9, hardly trained."""
    quick = {"latents": 2, "keep-latents": 2, "steps": 1, "sampler-steps": 2, "max-rank": 1}
    flags = [part for name, value in quick.items() for part in (f"--{name}", value)]
    folder = tmp_path_factory.mktemp("adapters") / "gone"
    assert call_semu("erase", "--model", "cifar10", "--concept", "9", *flags, "--quiet", "--output", folder) == 0
    return folder


def test_an_adapter_for_one_says_so_to_the_other(gone, tmp_path, semu):
    assert (gone / "before_after.png").is_file()
    assert "pipeline_tag: unconditional-image-generation" in (gone / "README.md").read_text()
    code, _, said = semu("generate", "--adapter", gone, "--prompt", "a truck", "--output", tmp_path / "x")
    assert code == 2 and "is for another model, 'cifar10'" in said
    code, *_ = semu("generate", "--model", "cifar10", "--adapter", gone, "--prompt", "truck", "--steps", "2",
                    "--output", tmp_path / "y")  # fmt: skip
    assert code == 0 and len(list((tmp_path / "y").glob("*.png"))) == 1
    code, *_ = semu("export", gone, "--model", "cifar10", "--to", "merged", "--output", tmp_path / "whole")
    merged = family_of(load_pipeline(str(tmp_path / "whole"), "cpu"))
    assert code == 0 and tuple(merged.names) == CLASSES and merged.guided


def test_it_is_measured_by_a_suite_of_its_own(gone, tmp_path, semu):
    scores = tmp_path / "scores"
    given = ("--model", "cifar10", "--limit", 2, "--seeds", 1, "--steps", 1)
    code, out, said = semu("eval", gone, *given, "--output", scores, "--json")
    assert code == 0, said
    report = json.loads(out)
    assert report["protocol"]["suite"] == "classes" and report["protocol"]["pictures"] == {"keep": 2, "forget": 1}
    assert set(report["erased"]["per_concept"]) == {"airplane", "automobile", "truck"}
    assert report["protocol"]["judges"][0]["name"] == "cifar10" and (scores / "results.json").is_file()
    code, *_, said = semu("eval", gone, "--model", "cifar10", "--results", scores / "results.json", "--verify")
    assert code == 0, said
    assert semu("report", scores)[0] == 0
    code, *_, said = semu("eval", gone, "--model", "cifar10", "--suite", "pictograms", "--output", tmp_path / "x")
    assert code == 2 and "its suite is classes" in said and not (tmp_path / "x").exists()
