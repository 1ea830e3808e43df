"""The judge of the embedded model of photographs: how a trained classifier is packed, the card of the shipped one."""

import json
import sys
from pathlib import Path

import pytest
import torch
from classifiers import write_noise
from safetensors.torch import load_file

from semu_diffusion.classification import PictureJudge, load_classifier, save_classifier
from semu_diffusion.diffusion.pipeline import ASSETS

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import pack_cifar10_judge as packer  # noqa: E402

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of noise in three classes, and its test pictures, uint8 (12, 3, 32, 32), with labels."""
    folder = tmp_path_factory.mktemp("pictures")
    return folder, write_noise(folder, NAMES, 12)[24:], torch.arange(12) % 3


def test_a_classifier_is_packed_in_half_with_names_size_and_card(pictures, tmp_path):
    data, images, labels = pictures
    model = load_classifier("resnet18", 3, 3, 4).eval()
    save_classifier(model, tmp_path / "trained")
    packer.main(["--classifier", str(tmp_path / "trained"), "--data", str(data), "--output", str(tmp_path / "judge")])
    stored = load_file(tmp_path / "judge" / "model.safetensors")
    assert {v.dtype for v in stored.values() if v.is_floating_point()} == {torch.float16}
    packed = load_classifier(str(tmp_path / "judge"))
    assert packed.class_names == NAMES and packed.image_size == 32
    with torch.no_grad():
        right = 100 * (PictureJudge(packed)(images / 255).argmax(1) == labels).float().mean().item()
    found = json.loads((tmp_path / "judge" / "check.json").read_text())
    assert found["test_pictures"] == 12 and found["test_accuracy"] == pytest.approx(right, abs=0.01)
    card = (tmp_path / "judge" / "README.md").read_text()
    assert f"names {right:.2f} % of 12 test pictures" in " ".join(card.split()) and "0 red, 1 green, 2 blue" in card


def test_the_card_of_the_shipped_one_is_that_of_its_figures():
    folder = ASSETS / "cifar10" / "judge"
    about, found = (json.loads((folder / f"{name}.json").read_text()) for name in ("model", "check"))
    card = " ".join((folder / "README.md").read_text().split())
    assert f"names {found['test_accuracy']:.2f} % of {found['test_pictures']:,} test pictures right" in card
    assert f"A {about['model']} of width {about['arguments']['width']}" in card and found["trained"] in card
