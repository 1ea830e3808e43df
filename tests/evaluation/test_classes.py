"""The suite of class-conditional models: what is drawn, what is refused, and whose judge."""

import json

import numpy as np
import pytest
import torch
from pages import PAGES, words_of
from PIL import Image, ImageOps
from tiny_families import load_family

from semu_diffusion import load_pipeline
from semu_diffusion.classification import load_classifier, save_classifier
from semu_diffusion.diffusion.pipeline import ASSETS
from semu_diffusion.evaluation.judges import image_classifier
from semu_diffusion.evaluation.measure import suite_for
from semu_diffusion.evaluation.suites.run import EvalConfig, judges_of, shots_of


@pytest.fixture(scope="module")
def photos():
    return load_pipeline("cifar10", "cpu")


@pytest.mark.parametrize("ship", ["ship", "8"])
def test_each_class_is_drawn_and_the_erased_one_is_forgotten(photos, ship):
    shots = shots_of(EvalConfig("classes", [ship], seeds=3), photos)
    assert [s.prompt for s in shots] == [s.label for s in shots] and len({s.file for s in shots}) == 30
    assert {s.label for s in shots if s.part == "forget"} == {"ship"}
    few = shots_of(EvalConfig("classes", [ship], seeds=2, limit=2), photos)
    assert [s.label for s in few] == ["airplane", "airplane", "automobile", "automobile", "ship", "ship"]
    assert {(s.prompt, s.seed) for s in few} < {(s.prompt, s.seed) for s in shots}


def test_what_is_no_class_is_said_before_anything_is_drawn(photos, family_folder, tmp_path):
    with pytest.raises(ValueError, match="no class 'boat'; known: 0 to 9, or airplane"):
        shots_of(EvalConfig("classes", ["boat"]), photos)
    (tmp_path / "prompts.csv").write_text("prompt,label\nship,ship\na photo of a frog,frog\n")
    with pytest.raises(ValueError, match="no class 'a photo of a frog'"):
        shots_of(EvalConfig("custom", ["ship"], prompts=str(tmp_path / "prompts.csv")), photos)
    numbered = load_family(family_folder("classes"))
    config = EvalConfig("classes", ["1"])
    with pytest.raises(ValueError, match="the classifier cifar10 knows no 0, 1"):
        judges_of(config, shots_of(config, numbered), "cpu")


def test_models_have_a_suite_of_their_own_or_need_one(photos, family_folder):
    assert suite_for(photos) == "classes" and suite_for(load_pipeline("pictograms", "cpu")) == "pictograms"
    text = load_family(family_folder("sd1"))
    with pytest.raises(ValueError, match="say which: --suite pictograms, nudity, .* or custom"):
        suite_for(text)
    with pytest.raises(ValueError, match="classes is for class-conditional models; .* reads text"):
        shots_of(EvalConfig("classes", ["cat"]), text)


def test_classifiers_of_ours_name_by_their_names_or_by_number(tmp_path):
    model, images = load_classifier("resnet18", 3, width=4), torch.rand(5, 3, 32, 32)
    for names in (None, ["sun", "moon", "star"]):
        model.class_names = names
        namer = image_classifier(str(save_classifier(model, tmp_path)))
        expected = model.eval()(2 * images - 1).argmax(1).tolist()
        assert [r["named"] for r in namer.look(images)] == [(names or ["0", "1", "2"])[k] for k in expected]


@pytest.mark.parametrize("file, content", [
    ("model.json", "{"), ("model.json", "[]"), ("model.json", '{"model": "vit", "arguments": {}}'),
    ("model.json", '{"model": "vgg16", "arguments": {"width": 4}}'), ("model.safetensors", "no tensors"),
    ("model.safetensors", None),
])  # fmt: skip
def test_a_folder_that_is_no_classifier_is_one_line(file, content, tmp_path):
    save_classifier(load_classifier("resnet18", 3, width=4), tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match="holds no classifier as semu writes it") as caught:
        image_classifier(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_brought_to_what_a_classifier_was_trained_on(channels, tmp_path):
    model = load_classifier("resnet18", 4, channels, width=4)
    model.image_size = 16
    save_classifier(model, tmp_path)
    large = torch.randint(0, 256, (2, 40, 48, 3), generator=torch.Generator().manual_seed(0)).byte()
    cut = [ImageOps.fit(Image.fromarray(x.numpy()), (16, 16), Image.Resampling.LANCZOS) for x in large]
    small, large = (torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2) / 255 for part in (cut, large))
    asked = small.mean(1, keepdim=True) if channels == 1 else small
    with torch.no_grad():
        want = model.eval()(2 * asked - 1)
    judge = image_classifier(str(tmp_path)).classify
    torch.testing.assert_close(judge(large), want)
    torch.testing.assert_close(judge(small), want)


def test_the_judge_in_the_package_says_how_good_it_is():
    folder = ASSETS / "cifar10" / "judge"
    found = json.loads((folder / "check.json").read_text())
    assert found["test_pictures"] == 10_000 and found["test_accuracy"] > 85
    assert (folder / "model.safetensors").stat().st_size < 2e6
    page = words_of(PAGES["docs/quickstart.md"])
    assert f"right on {found['test_accuracy']:.2f} % of the test pictures" in page
    assert image_classifier("cifar10").labels[:2] == ["airplane", "automobile"]
    assert load_classifier(str(folder)).image_size == 32
