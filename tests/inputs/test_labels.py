"""Labels by name: data whose order is not the model's, labels that are missing, out of range, or no numbers."""

import json

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures

from semu_diffusion.classification.data import load_data, take
from semu_diffusion.classification.labels import class_numbers, match_labels
from semu_diffusion.classification.models import load_classifier, open_classifier, save_classifier
from semu_diffusion.inputs.labels import are_names, encode, places, same_name

COLOURS = ("red", "green", "blue")  # in the order of the data; the model has them in another


def colour(name, k):
    """A plain picture but for one pixel, so that no two are the same."""
    picture = Pictures.new("RGB", (8, 8), name)
    picture.putpixel((0, 0), (k, k, k))
    return picture


def store(folder, values, names=None, file="train.parquet"):
    """Pictures of three colours in turn with these labels."""
    kind = ClassLabel(names=list(names)) if names else Value("string" if isinstance(values[0], str) else "int64")
    features = Features({"photo": Image(), "label": kind})
    rows = {"photo": [colour(COLOURS[k % 3], k) for k in range(len(values))], "label": values}
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(folder / file)
    return str(folder)


class Seer(torch.nn.Module):
    """A classifier that is always right, by its own order of names: blue, red, green."""

    order = ("blue", "red", "green")

    def __init__(self, names=order):
        super().__init__()
        self.one = torch.nn.Linear(1, 1)
        self.config = type("Config", (), {"id2label": dict(enumerate(names)), "num_labels": len(names)})

    def forward(self, x):
        red, green, blue = x.mean((2, 3)).T
        return torch.stack([blue, red, green], 1)


def accuracy(model, data):
    x, y = data.train[torch.arange(len(data.train))]
    return (model(x).argmax(1) == y).float().mean().item()


@pytest.mark.parametrize("named", [True, False], ids=["ClassLabel", "texts"])
def test_a_model_that_is_right_by_its_own_names_is_right(tmp_path, named):
    values = [k % 3 for k in range(30)] if named else [COLOURS[k % 3] for k in range(30)]
    data = load_data(store(tmp_path / "set", values, COLOURS if named else None))
    assert accuracy(Seer(), data) < 0.5  # by index
    match_labels(data, Seer(), trained=False)
    assert accuracy(Seer(), data) == 1.0 and data.classes == list(Seer.order)
    for part in (data.held_out, data.test):
        x, y = part[torch.arange(len(part))]
        assert (Seer()(x).argmax(1) == y).all()


def test_synonyms_case_and_underscores_are_one_name():
    assert same_name("English_springer", "english springer, English springer spaniel")
    assert same_name("saw", "chain saw, saw") and not same_name("saw", "seesaw")
    assert places(["crane"], ["crane", "heron", "crane"]) == {"crane": [0, 2]}
    assert not are_names(["LABEL_0", "3"]) and are_names(["cat", "3"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("blue", "red", "yellow"), "knows no green"),
        (("blue", "red"), "the model has 2 classes"),
        (("blue", "red", "green", "red"), "has 4 classes|red more than once"),
    ],
)
def test_a_model_of_other_names_is_refused(tmp_path, names, said):
    data = load_data(store(tmp_path / "set", [k % 3 for k in range(30)], COLOURS))
    with pytest.raises(ValueError, match=said):
        match_labels(data, Seer(names), trained=False)


def test_numbers_do_not_stand_for_names(tmp_path):
    data = load_data(store(tmp_path / "set", [k % 3 for k in range(30)]))
    with pytest.raises(ValueError, match="numbers without names"):
        match_labels(data, Seer(), trained=False)
    with pytest.warns(UserWarning, match="does not name its 3 classes"):
        match_labels(data, Seer(["LABEL_0", "LABEL_1", "LABEL_2"]), trained=False)
    assert match_labels(data, Seer(), trained=True) is data  # it learns their order


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 1, -1, -1], "2 of 4 examples have no label .row 2"),
        ([0, None, 1], "1 of 3 examples have no label"),
        (["cat", "", "dog"], "1 of 3 examples have no label"),
        ([0.0, float("nan")], "1 of 2 examples have no label"),
        ([0, 1.5], "neither a whole number"),
        ([0, "cat"], "neither a whole number nor a name"),
        ([[0, 1], [1]], "neither a whole number nor a name"),
        ([0, 1, 65535], "labels run to 65535"),
    ],
)
def test_odd_labels_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        encode(values, None, "here")


def test_labels_out_of_range_and_unknown_texts_are_refused():
    with pytest.raises(ValueError, match="row 1 is 3, not in 0..2"):
        encode([0, 3], list("abc"), "here")
    with pytest.raises(ValueError, match="'d' is none of the training split's, a, b, c"):
        encode(["a", "d"], list("abc"), "here")
    y, names = encode(["dog", "cat", "dog"], None, "here")
    assert y.tolist() == [1, 0, 1] and names == ["cat", "dog"]
    assert encode([1.0, 0.0], None, "here")[0].tolist() == [1, 0]


def test_take_refuses_labels_that_are_no_numbers():
    with pytest.raises(ValueError, match="the label of row 0 is 'cat'"):
        take([(torch.zeros(3), "cat")], torch.tensor([0]))
    assert take([(torch.zeros(3), torch.tensor(2))], torch.tensor([0]))[1].tolist() == [2]


def test_classes_by_name_and_number():
    assert class_numbers(["blue", 1, "2"], list(COLOURS)) == [2, 1, 2]
    assert class_numbers(["3"], ["7", "3"]) == [1]  # a name before a number
    with pytest.raises(ValueError, match="no example of class pink; the classes are red, green, blue"):
        class_numbers(["pink"], list(COLOURS))


def test_a_saved_classifier_keeps_its_names(tmp_path):
    data = load_data(store(tmp_path / "set", [k % 3 for k in range(30)], COLOURS))
    model = open_classifier("resnet18", data, 2, 0, "cpu", trained=True)
    save_classifier(model, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "model.json").read_text())["class_names"] == list(COLOURS)
    other = load_data(store(tmp_path / "other", [k % 3 for k in range(30)], COLOURS[::-1]))
    before = other.train.y.clone()
    again = load_classifier(str(tmp_path / "model"))
    match_labels(other, again, trained=False)
    assert other.classes == list(COLOURS) and (other.train.y == 2 - before).all()


def test_a_classifier_is_for_pictures_of_its_own_size_and_channels(tmp_path):
    data = load_data(store(tmp_path / "set", [k % 3 for k in range(30)], COLOURS))
    size = data.train.x.shape[-1]
    name = str(save_classifier(open_classifier("resnet18", data, 2, 0, "cpu", trained=True), tmp_path / "model"))
    larger = load_data(str(tmp_path / "set"), 2 * size)
    with pytest.raises(ValueError, match=f"trained on pictures of {size} pixels, not {2 * size}; --size {size} resiz"):
        open_classifier(name, larger, 2, 0, "cpu")
    assert open_classifier(name, larger, 2, 0, "cpu", trained=True).image_size == 2 * size
    assert open_classifier(name, data, 2, 0, "cpu").image_size == size
    save_classifier(load_classifier("resnet18", 3, 1, 2), tmp_path / "grey")
    with pytest.raises(ValueError, match="grey takes pictures of 1 channels, those of the data have 3"):
        open_classifier(str(tmp_path / "grey"), data, 2, 0, "cpu", trained=True)


def build_vit(folder, order, data):
    """A tiny ViT of transformers, whose head is solved so that it names every picture, by `id2label` in this order."""
    from transformers import ViTConfig, ViTForImageClassification

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**small, image_size=8, patch_size=4, id2label=dict(enumerate(order)))
    model = ViTForImageClassification(config).eval()
    x, y = data.train[torch.arange(len(data.train))]
    with torch.no_grad():
        seen = model.vit(x).last_hidden_state[:, 0]
        one_hot = torch.nn.functional.one_hot(torch.tensor([order.index(COLOURS[k]) for k in y]), 3).float()
        solved = torch.linalg.lstsq(
            torch.cat([seen, torch.ones(len(y), 1)], 1).double(), 10 * one_hot.double()
        ).solution
        model.classifier.weight.copy_(solved[:-1].T)
        model.classifier.bias.copy_(solved[-1])
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("order", [("red", "green", "blue"), ("blue", "red", "green"), ("Green", "BLUE", "red")])
def test_a_vit_that_is_right_by_its_own_names_is_reported_so(tmp_path, semu, order):
    values = [k % 3 for k in range(60)]
    source = store(tmp_path / "set", values, COLOURS)
    model = build_vit(tmp_path / "vit", [name.lower() for name in order], load_data(source))
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["id2label"] = {str(k): name for k, name in enumerate(order)}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    status, out, err = semu("classify", "--model", model, "--data", source, "--output", tmp_path / "out",
                            "--train-epochs", 0, "--epochs", 1, "--forget-class", "green", "--json",
                            "--quiet")  # fmt: skip
    assert status == 0, err
    original = json.loads(out)["table"]["original"]
    assert original["RA"] == original["TA"] == 100.0 and original["UA"] == 0.0
    assert json.loads((tmp_path / "out" / "split.json").read_text())["classes"] == [
        [o.lower() for o in order].index("green")
    ]


def test_a_judge_reads_id2label(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    from semu_diffusion.evaluation.judges import check_names, image_classifier

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**small, image_size=8, patch_size=4, id2label={2: "cat", 0: "dog, hound", 1: "tree"})
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    namer = image_classifier(str(tmp_path))
    assert namer.labels == ["dog, hound", "tree", "cat"]
    check_names(namer, ["Hound", "tree"])
    with pytest.raises(ValueError, match="knows no LABEL_0"):
        check_names(namer, ["LABEL_0"])


@pytest.mark.parametrize("values", [[0, 1, 2, -1] * 8, ["red", "green", "blue", ""] * 8], ids=["-1", "empty"])
def test_classify_says_so_in_one_line(tmp_path, semu, values):
    source = store(tmp_path / "set", values)
    status, out, err = semu("classify", "--data", source, "--output", tmp_path / "out", "--quiet")
    assert status == 2 and "8 of 32 examples have no label" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_classify_forgets_a_class_by_name(tmp_path, semu):
    source = store(tmp_path / "set", [COLOURS[k % 3] for k in range(60)])
    status, out, err = semu("classify", "--data", source, "--output", tmp_path / "out", "--forget-class", "green",
                            "--train-epochs", 1, "--shadow-pairs", 0, "--width", 2, "--epochs", 1, "--json",
                            "--quiet")  # fmt: skip
    assert status == 0, err
    split = json.loads((tmp_path / "out" / "split.json").read_text())
    assert split["classes"] == [1] and json.loads(out)["split"] == "class 1"  # blue, green, red
