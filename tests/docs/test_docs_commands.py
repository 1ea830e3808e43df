"""Every command and every Python block of the README and of docs/, run with as little work as they allow.

One erasure of the embedded model is shared by all; what names another model gets a tiny one in its place.
"""

import functools
import json
import re
import shlex
import shutil

import pytest
import typer
from pages import PAGES, ROOT, blocks, commands, files
from safetensors.torch import load_file
from shell import call_semu

from semu_diffusion.adapter.files import save_atomic
from semu_diffusion.adapter.weights import WEIGHTS, header_of
from semu_diffusion.attacks import AttackConfig
from semu_diffusion.cli.app import NAMES, make_app
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.erasers import eraser_of

LITTLE = {"steps": 2, "latents": 2, "keep_latents": 2, "sampler_steps": 2, "gradient_records": 4, "max_rank": 4,
          "geometry": "euclidean", "batch_size": 2}  # fmt: skip
SPARE = {
    "erase": ["--no-evaluate", *(w for k, v in LITTLE.items() for w in (f"--{k.replace('_', '-')}", str(v)))],
    "generate": ["--steps", "1"],
    "attack": ["--seeds", "1", "--pictures", "2", "--steps", "1", "--iterations", "1"],
    "classify": ["--train-epochs", "1", "--epochs", "1", "--width", "4", "--shadow-pairs", "0"],
}
FAMILY = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "sd1", "stabilityai/stable-diffusion-xl-base-1.0": "sdxl"}
SHELL = ("make", "pip", ".venv/bin/python")  # the first by a test below
ADAPTERS = ("no-cigarette", "no-knife")  # erased once, for all pages
WITH_COMMANDS = [name for name, text in PAGES.items() if any(c.startswith("semu ") for c in commands(text))]
WITH_PYTHON = [name for name, text in PAGES.items() if blocks(text, "python")]


FIRST = ["semu erase --concept cigarette --output no-cigarette", "semu eval no-cigarette --output scores"]


def with_little(patch: pytest.MonkeyPatch, folder) -> None:
    """In the folder, pictures of one sampler step, and few of them to attack with."""
    patch.chdir(folder)
    patch.setattr("semu_diffusion.evaluation.suites.pictograms.SAMPLER_STEPS", 1)
    patch.setattr("semu_diffusion.attacks.suite.AttackConfig", functools.partial(AttackConfig, contexts=1, steps=2))
    for name, value in (("LATENTS", 2), ("KEPT_LATENTS", 4), ("STEPS", 2)):
        patch.setattr(f"semu_diffusion.diffusion.scene.{name}", value)
    patch.setattr("semu_diffusion.attacks.judge.OBJECTS", ("cigarette", "dog"))  # of the references
    patch.setattr("semu_diffusion.attacks.judge.STYLES", ("photo", "neon"))


@pytest.fixture(scope="module")
def home(assets, tmp_path_factory):
    """A folder with the adapters no-cigarette (erased and measured by `FIRST`) and no-knife, and the pages' files."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        with_little(patch, folder)
        for command in FIRST:
            assert not call_semu(*spared(command, lambda word: word or "pictograms"))
    results = json.loads((folder / "no-cigarette" / "results.json").read_text())
    results["evaluation"] = json.loads((folder / "scores" / "evaluation.json").read_text())
    (folder / "no-cigarette" / "results.json").write_text(json.dumps(results))
    shutil.copytree(folder / "no-cigarette", folder / "no-knife")  # another adapter only in its name and strength
    weights = load_file(folder / "no-knife" / WEIGHTS)
    weights = {k: 1.1 * v if k.endswith("semu_R") else v for k, v in weights.items()}
    save_atomic(weights, folder / "no-knife" / WEIGHTS, header_of(folder / "no-knife" / WEIGHTS))
    for text in PAGES.values():
        for name, contents in files(text).items():
            (folder / name).write_text(contents)
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    return folder


@pytest.fixture
def here(home, monkeypatch):
    with_little(monkeypatch, home)
    return home


def spared(command: str, model_of) -> list[str]:
    """The words after `semu`, with less work and with models that are there."""
    words = [model_of(word) for word in shlex.split(command, comments=True)[1:]]
    if "--help" in words:
        return words
    if words[0] == "erase" and "--method" in words:
        takes = eraser_of(words[words.index("--method") + 1]).takes
        little = {k: v for k, v in LITTLE.items() if k in takes}
        words += ["--no-evaluate", *(w for k, v in little.items() for w in (f"--{k.replace('_', '-')}", str(v)))]
    else:
        words += SPARE.get(words[0], [])
    if words[0] == "attack" and not {"--attack", "--prompts-from"} & set(words):
        words += ["--attack", "plain"]
    if words[0] == "eval" and "--verify" not in words and "--images" not in words:
        words += ["--steps", "1"] if {"--suite", "cifar10"} & set(words) else ["--seeds", "1"]
    if words[0] == "erase" and not {"--model", "--on-top-of"} & set(words):
        words += ["--model", model_of("")]
    return words


@pytest.fixture(scope="module")
def done():
    """Commands that the fixture or an earlier page has run."""
    return set(FIRST)


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_in_order(page, here, done, semu, hub, family_folder):
    model_of = lambda word: str(family_folder(FAMILY.get(word, "sd1"))) if word in (*FAMILY, "") else word  # noqa: E731
    for command in (c for c in commands(PAGES[page]) if c.startswith("semu ")):
        words = spared(command, model_of)
        output = words[words.index("--output") + 1] if "--output" in words else ""
        if command in done:
            continue
        if output in ADAPTERS:
            words[words.index("--output") + 1] = output = f"again-{output}"
        status, out, err = semu(*words)
        assert status == 0, (command, err)
        assert (here / output).exists(), command
        done.add(command)
        assert out.strip(), f"nothing on stdout: {command}"


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_in_order(page, here, assets, monkeypatch):
    little = functools.partial(EraseConfig, **LITTLE)
    monkeypatch.setattr("semu_diffusion.diffusion.erasure.EraseConfig", little)
    names: dict = {}
    for block in blocks(PAGES[page], "python"):
        block = block.replace("path/to/the/base/model", str(assets))
        if 'output="no-cigarette"' in block:
            shutil.rmtree(here / "again", ignore_errors=True)
            block = block.replace('output="no-cigarette"', 'output="again"')
        exec(compile(block, page, "exec"), names)
        names["__name__"] = "docs"


def test_no_other_command_hides_in_a_bash_block():
    for page, text in PAGES.items():
        for command in commands(text):
            assert shlex.split(command, comments=True)[0] in ("semu", *SHELL), (page, command)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for text in PAGES.values() for line in commands(text) if line.startswith("make ")]
    targets = {shlex.split(line, comments=True)[1] for line in lines}
    assert targets >= {"demo", "test", "lint", "docs"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    readme = [line.split()[1] for line in commands(PAGES["README.md"]) if line.startswith("make ")]
    assert readme == ["demo", "test"]


def test_every_command_is_in_the_docs_and_every_option_in_them_exists():
    text = "\n".join(PAGES.values())
    assert all(f"`semu {name}" in text for name in NAMES)
    tree = typer.main.get_command(make_app())
    options = {o for c in (tree, *tree.commands.values()) for p in c.params for o in p.opts}
    named = set(re.findall(r"`(--[a-z][a-z-]+)\b", text))
    former = {"--adapter", "--refresh"}
    assert len(named) > 30 and not sorted(named - former - options)
