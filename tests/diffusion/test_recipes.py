"""Every recipe on a tiny pipeline of every family that it was written for, and through the command line."""

import copy
import csv
import functools
import json
import shlex

import pytest
import yaml
from tiny_families import load_family

from semu_diffusion import erase
from semu_diffusion.adapter.weights import LORA
from semu_diffusion.cli.erase import for_family
from semu_diffusion.diffusion.config import EraseConfig
from semu_diffusion.diffusion.families import FAMILIES
from semu_diffusion.diffusion.recipes import FOLDER, Recipe, families, recipe_of, recipes
from semu_diffusion.evaluation.prompts import read_prompts
from semu_diffusion.evaluation.suites import SUITES

NAMES = ("artist", "character", "imagenette", "nudity", "object", "person")
TINY = {"StableDiffusion": "sd1", "StableDiffusionXL": "sdxl", "Flux": "flux"}
# Small numbers, and words that the tiny tokenizers have; all else is the recipe's.
SMALL = {"latents": 4, "keep_latents": 4, "sampler_steps": 3, "batch_size": 2, "steps": 2, "max_rank": 4, "seed": 1,
         "gradient_records": 8, "moment_records": 8}  # fmt: skip
WORDS = {"style": ("sepia style", {"anchor": "neon style"}), "other": ("cigarette", {"anchor": "apple"})}


@pytest.fixture(scope="module")
def pipelines(family_folder):
    """Family -> a copy of its tiny pipeline, which is loaded once."""
    loaded = functools.cache(lambda family: load_family(family_folder(TINY[family])))
    return lambda family: copy.deepcopy(loaded(family))


def small(recipe: Recipe) -> dict:
    """What a test gives beside a recipe."""
    is_style = recipe.options["concept"].endswith("style")
    concept, anchor = WORDS["style" if is_style else "other"]
    return {**SMALL, "concept": concept, **(anchor if "anchor" in recipe.options else {})}


def test_there_are_those_that_people_ask_for():
    assert tuple(recipes()) == NAMES
    assert set(families()) == set(TINY) <= {family.__name__ for family in FAMILIES}


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name, family, pipelines):
    recipe = recipes()[name]
    pipe = pipelines(family)
    config = for_family(recipe, pipe, small(recipe), None)
    options = config.to_dict()
    erasure = erase(pipe, options.pop("concept"), **options)
    assert erasure.progress.step == 2 and erasure.facts["layers"] > 0
    shared, own = families()[family]["options"], recipe.families.get(family, {})
    for key, value in {**recipe.options, **shared, **own}.items():
        if key not in small(recipe):
            assert options[key] == value


def test_what_is_given_comes_first_then_the_family_then_the_recipe():
    recipe = Recipe("x", "", [], {"concept": "cat", "gamma": 0.5, "steps": 7}, [], {"Flux": {"steps": 8}})
    assert recipe.config() == EraseConfig(concept="cat", gamma=0.5, steps=7)
    flux = recipe.config("Flux")
    assert (flux.steps, flux.gamma, flux.sketch) == (8, 0.95, 64)
    assert recipe.config("Flux", steps=9, concept="dog").steps == 9
    assert recipe.config("PixArt").gamma == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_its_evaluation_can_be_run(name, tmp_path):
    """Its suites are there, its options are known, and the prompts that come with it are about its concept."""
    from typer.main import get_command

    from semu_diffusion.cli.app import make_app

    recipe = recipes()[name]
    assert recipe.about and all("arXiv" in source for source in recipe.sources)
    known = {flag for parameter in get_command(make_app()).commands["eval"].params for flag in parameter.opts}
    for command in recipe.commands("a folder", tmp_path):
        words = shlex.split(command)
        assert words[:3] == ["semu", "eval", str(tmp_path)] and "a folder" in words and "{" not in command
        assert {word for word in words if word.startswith("--")} <= known
        assert words[words.index("--suite") + 1] in SUITES
        if "--prompts" in words and words[words.index("--prompts") + 1].endswith(".csv"):
            labels = {shot.label for shot in read_prompts(words[words.index("--prompts") + 1])}
            assert recipe.options["concept"].removesuffix(" style") in labels and len(labels) > 3


def test_bundled_prompts_have_seeds_of_their_own():
    rows = list(csv.DictReader((FOLDER / "artists.csv").open()))
    assert len({row["seed"] for row in rows}) == len(rows) == 25
    assert all(row["artist"] in row["prompt"] for row in rows)


def test_from_the_command_line(family_folder, tmp_path, semu):
    flags = [part for key, value in SMALL.items() for part in (f"--{key.replace('_', '-')}", value)]
    command = ["erase", "--config", "recipe:person", "--model", family_folder("sd1"), "--output", tmp_path / "out"]
    command += [*flags, "--concept", "cigarette", "--anchor", "apple", "--no-evaluate", "--quiet"]
    status, out, err = semu(*command)
    assert status == 0, err
    options = json.loads((tmp_path / "out" / "results.json").read_text())["options"]
    assert (options["gamma_cross"], options["guidance"], options["strength"]) == (1.0, 7.5, 0.25)
    assert options["concept"] == ["cigarette"] and options["latents"] == 4 and (tmp_path / "out" / LORA).is_file()
    assert f"evaluate: semu eval {tmp_path / 'out'} --model" in out and "--suite wordings" in out
    status, out, _ = semu(*command, "--overwrite", "--json")
    assert status == 0 and "--suite wordings" in json.loads(out)["evaluate"][0]


def test_the_list_and_a_file(semu):
    status, out, _ = semu("recipes")
    assert status == 0 and all(name in out for name in NAMES) and "recipe:nudity" in out
    listed = json.loads(semu("recipes", "--json")[1])
    assert tuple(listed["recipes"]) == NAMES and set(listed["models"]) == set(TINY)
    status, out, _ = semu("recipes", "nudity")
    assert status == 0 and yaml.safe_load(out)["options"] == recipes()["nudity"].options
    assert recipe_of("mine.yaml") is None and recipe_of("recipe:Nudity").name == "nudity"


@pytest.mark.parametrize(
    "arguments",
    [("recipes", "olympics"), ("erase", "--config", "recipe:olympics", "--output", "OUT", "--model", "MODEL")],
)
def test_an_unknown_one_is_one_line(arguments, tmp_path, monkeypatch, semu):
    monkeypatch.chdir(tmp_path)
    status, out, err = semu(*arguments)
    assert status == 2 and out == "" and len(err.splitlines()) == 1 and "known: artist, character" in err
    assert not (tmp_path / "OUT").exists()


def test_another_family_is_told(family_folder):
    said = []

    class Listener:
        def warn(self, text):
            said.append(text)

    config = for_family(recipes()["object"], load_family(family_folder("sd3")), {}, Listener())
    assert config == recipes()["object"].config() and "not for StableDiffusion3" in said[0]
