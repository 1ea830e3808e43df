"""Pictures that are given: under which prompt each is forgotten or kept, and that they are what is trained on."""

import json

import pytest
import torch
from PIL import Image
from tiny import flags, quick

from semu_diffusion import load_pipeline
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion.concepts import Pair
from semu_diffusion.diffusion.config import EraseConfig
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.given import answered, given_pictures
from semu_diffusion.diffusion.states import FORGET, REMAIN, States
from semu_diffusion.diffusion.trainer import Trainer

PAIRS = [Pair("a picture of a knife", ""), Pair("a knife", "a fork"), Pair("a knife in neon style", "neon style")]


@pytest.fixture(scope="module")
def family(tiny_model):
    return family_of(load_pipeline(str(tiny_model), "cpu"), "denoiser")


@pytest.fixture
def folder(tmp_path):
    for k, colour in enumerate(("red", "blue", "white")):
        Image.new("RGB", (40, 20), colour).save(tmp_path / f"{k}.png")
    return tmp_path


class Listener(Callback):
    def __init__(self):
        self.said = []

    def warn(self, text):
        self.said.append(text)


def given(family, callback=None, concept="knife", **options):
    config = EraseConfig(concept=concept, **{k: str(v) for k, v in options.items()})
    return given_pictures(family, config, PAIRS, callback or Listener())


def test_captions_are_what_is_taught(family, folder):
    for k, text in enumerate(("a tree", "an apple", "a dog")):
        (folder / f"{k}.txt").write_text(text)
    _, (latents, pairs) = given(family, retain_images=folder, retain_prompt="a cat")
    assert pairs == [Pair("a tree", ""), Pair("an apple", ""), Pair("a dog", "")] and latents.shape == (3, 4, 8, 8)
    (latents, pairs), (nothing, none) = given(family, forget_images=folder)
    assert [p.prompt for p in pairs] == ["a tree", "an apple", "a dog"] and not len(nothing) and none == []


def test_one_prompt_for_the_rest_of_the_folder(family, folder):
    (folder / "1.txt").write_text("an apple")
    (folder / "notes.txt").write_text("of the holidays")
    listener = Listener()
    _, (_, pairs) = given(family, listener, retain_images=folder, retain_prompt="a tree")
    assert [p.prompt for p in pairs] == ["a tree", "an apple", "a tree"]
    assert listener.said == [f"1 captions in {folder} belong to no picture: notes.txt"]


def test_pictures_to_keep_without_a_prompt_are_refused(family, folder):
    (folder / "1.txt").write_text("an apple")
    with pytest.raises(ValueError, match="2 of 3 pictures in .* have no caption: .*--retain-prompt"):
        given(family, retain_images=folder)
    with pytest.raises(ValueError, match="--retain-prompt is the prompt of --retain-images"):
        given(family, retain_prompt="a tree")


def test_pictures_to_forget_go_by_the_concept(family, folder):
    (_, pairs), _ = given(family, forget_images=folder)
    assert pairs == [PAIRS[0]] * 3  # its plainest prompt, not one in a random style
    (folder / "prompts.csv").write_text("prompt\na knife\n")
    (_, pairs), _ = given(family, concept=str(folder / "prompts.csv"), forget_images=folder)
    assert pairs == PAIRS
    with pytest.raises(ValueError, match="3 of 3 pictures in .* may show any of 2 concepts"):
        given_pictures(family, EraseConfig(concept=["knife", "cat"], forget_images=str(folder)), PAIRS, Listener())
    with pytest.raises(ValueError, match="its anchor are the same"):
        given_pictures(family, EraseConfig(concept="x", forget_images=str(folder)), [Pair("x", "x")], Listener())


@pytest.mark.parametrize(
    ("caption", "anchor"),
    [
        ("a man with a knife", "a man with a fork"),
        ("A Knife on a table", "a fork on a table"),
        ("a picture of a knife on a table", ""),  # the longest of the prompts that it holds
        ("two blades", ""),
    ],
)
def test_a_captions_anchor(caption, anchor):
    assert answered(caption, PAIRS) == Pair(caption, anchor)


def test_latents_are_those_of_the_cropped_picture(family, folder):
    wide = Image.new("RGB", (64, 16), "red")
    wide.paste(Image.new("RGB", (16, 16), "blue"), (24, 0))
    for name in ("0.png", "1.png", "2.png"):
        wide.save(folder / name)
    (latents, _), _ = given(family, forget_images=folder)
    blue = torch.zeros(1, 3, *family.image_size)
    blue[:, 2] = 1
    torch.testing.assert_close(latents, family.encode_images(blue).expand(3, -1, -1, -1), rtol=0, atol=1e-4)


def test_training_is_on_the_captions(tiny_model, folder, monkeypatch):
    """The records of kept pictures stand under their own prompts: of each one as many as sampler steps."""
    for k, text in enumerate(("a tree", "an apple", "a dog")):
        (folder / f"{k}.txt").write_text(text)
    seen, start = {}, Trainer.__init__

    def record(self, family, config, states: States, *rest):
        start(self, family, config, states, *rest)
        seen["states"] = states

    monkeypatch.setattr(Trainer, "__init__", record)
    result = quick(tiny_model, retain_images=str(folder), forget_images=str(folder), steps=1)
    states = seen["states"]
    assert states.contexts["text"][states.prompt[states.of_kind(REMAIN)]].unique(dim=0).shape[0] == 3
    assert len(states.of_kind(REMAIN)) == 3 * 4
    truth = family_of(result.pipe, "denoiser").encode(["a tree"])["text"]
    rows = [k for k, row in enumerate(states.contexts["text"]) if torch.equal(row, truth[0])]
    assert len(rows) == 1 and int((states.prompt[states.of_kind(REMAIN)] == rows[0]).sum()) == 4
    assert int((states.prompt[states.of_kind(FORGET)] == rows[0]).sum()) == 4


def test_the_command_says_what_is_missing(tiny_model, folder, tmp_path, semu):
    command = ["erase", "--model", tiny_model, "--concept", "cat", "--output", tmp_path / "out", "--quiet",
               *flags(steps=1, latents=4, keep_latents=4, sampler_steps=2)]  # fmt: skip
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "a tree"}))
    status, _, err = semu(*command, "--retain-images", folder)
    assert status == 2 and "2 of 3 pictures" in err.splitlines()[-1] and not (tmp_path / "out").exists()
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:40])
    status, _, err = semu(*command, "--retain-images", folder, "--retain-prompt", "a dog")
    assert status == 2 and "1.png is not a picture" in err.splitlines()[-1] and not (tmp_path / "out").exists()
