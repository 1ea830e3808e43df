"""Forgetting in classifiers: random labels, splits, data, models, the loop, its files and the shell command."""

import copy
import json
import sys

import pytest
import torch
from classifiers import Net, pictures
from scipy.stats import chisquare
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from semu_diffusion.adapter.weights import load_adapter, semu_layers
from semu_diffusion.classification import (
    Examples,
    Split,
    UnlearnConfig,
    adapter_off,
    class_split,
    fit,
    index_split,
    load_classifier,
    load_data,
    merge_adapter,
    predict,
    random_split,
    save_classifier,
    unlearn,
)
from semu_diffusion.classification.data import labels_of, mirrored, overlap, shifted
from semu_diffusion.classification.losses import logits_of, random_labels, unlearning_loss
from semu_diffusion.classification.unlearning import less_trained

QUICK = {"epochs": 6, "lr": 0.03, "batch_size": 16, "max_rank": 4}


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return fit(Net(), pictures(240, 0), epochs=8, batch_size=32)


@pytest.fixture
def net(trained):
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def train():
    return pictures(240, 0)


@pytest.fixture(scope="module")
def held_out():
    return pictures(80, 1)


def hits(model, data) -> float:
    return (predict(model, data).argmax(1) == labels_of(data)).float().mean().item()


# --- random labels and loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgotten", [(), (1,)])
def test_random_labels_are_uniform_among_the_other_classes(forgotten):
    generator = torch.Generator().manual_seed(0)
    for own in forgotten or range(5):
        drawn = random_labels(torch.full((4000,), own), 5, generator, forgotten)
        counts = torch.bincount(drawn, minlength=5)
        assert counts[own] == 0
        assert chisquare(counts[counts > 0].numpy()).pvalue > 1e-3 and (counts > 0).sum() == 4


def test_random_labels_avoid_all_forgotten_classes_and_mixed_batches_their_own():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (3000,), generator=generator)
    drawn = random_labels(labels, 6, generator, forgotten=(2, 4))
    assert not (drawn == labels).any() and set(drawn.tolist()) == {0, 1, 3, 5}
    for own, choices in ((0, 3), (2, 4)):
        counts = torch.bincount(drawn[labels == own], minlength=6)
        assert (counts > 0).sum() == choices and chisquare(counts[counts > 0].numpy()).pvalue > 1e-3


def test_random_labels_come_from_the_seed_and_need_another_class():
    labels = torch.arange(5).repeat(20)
    first, again = (random_labels(labels, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    with pytest.raises(ValueError, match="no other class"):
        random_labels(torch.zeros(3, dtype=torch.long), 1, torch.Generator())
    with pytest.raises(ValueError, match="no other class"):
        random_labels(torch.tensor([0, 1]), 2, torch.Generator(), forgotten=(0, 1))


def test_loss_is_the_forget_part_plus_alpha_times_the_retain_part():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    rows = -logits.log_softmax(1)[torch.arange(6), labels]
    loss, parts = unlearning_loss(logits, labels, 4, alpha=0.25)
    assert loss.item() == pytest.approx((rows[:4].mean() + 0.25 * rows[4:].mean()).item(), rel=1e-5)
    assert parts == pytest.approx({"forget": rows[:4].mean().item(), "retain": rows[4:].mean().item()}, rel=1e-5)
    assert list(unlearning_loss(logits, labels, 6, 0.25)[1]) == ["forget"]


# --- splits ------------------------------------------------------------------------------------------------------


def test_splits_cover_everything_once_and_repeat(tmp_path):
    labels = torch.arange(5).repeat(20)
    split = random_split(labels, 0.1, seed=3)
    assert sorted(split.forget + split.retain) == list(range(100)) and len(split.forget) == 10
    assert random_split(labels, 0.1, seed=3) == split != random_split(labels, 0.1, seed=4)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    whole = class_split(labels, 3)
    assert whole.forget == list(range(3, 100, 5)) and whole.classes == [3]
    assert class_split(labels, [1, 3]).classes == [1, 3]


@pytest.mark.parametrize("text", ["[7, 2, 4]", "7\n2 4\n"])
def test_index_split(tmp_path, text):
    (tmp_path / "which.txt").write_text(text)
    assert index_split(torch.arange(5).repeat(20), tmp_path / "which.txt").forget == [2, 4, 7]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda y, f: random_split(y, 1.5), r"fraction to forget must be in \(0, 1\), got 1.5"),
        (lambda y, f: random_split(y, 0.999), "must be a part of the training set, got 20 of 20"),
        (lambda y, f: class_split(y, 7), r"no example of class 7; the labels are 0..4"),
        (lambda y, f: class_split(y, [0, 1, 2, 3, 4]), "must be a part"),
        (lambda y, f: random_split(y, 0.9), "every example of class .; ask for it with --forget-class"),
        (lambda y, f: index_split(y, f("0 5 10 15")), "every example of class 0; ask for it with --forget-class 0"),
        (lambda y, f: index_split(y, f("3 99")), "indices must be in 0..19"),
        (lambda y, f: index_split(y, f("3 x")), "is no list of indices"),
        (lambda y, f: index_split(y, f("[3, 1.5]")), "is no list of indices: they must be whole numbers"),
        (lambda y, f: index_split(y, f("")), "must be a part of the training set, got 0 of 20"),
        (lambda y, f: Split.load(f("{}")), "is not a split"),
    ],
)
def test_bad_splits_say_what_is_wrong(tmp_path, make, says):
    def file(text):
        (tmp_path / "file.txt").write_text(text)
        return tmp_path / "file.txt"

    with pytest.raises(ValueError, match=says):
        make(torch.arange(5).repeat(4), file)


# --- data --------------------------------------------------------------------------------------------------------


def test_digits_are_whole_disjoint_and_balanced():
    data = load_data("digits")
    assert len(data.train) + len(data.held_out) + len(data.test) == 1797 and data.train[0][0].shape == (1, 8, 8)
    assert overlap(data.train, data.test) == overlap(data.train, data.held_out) == 0
    assert all(len(labels_of(d).unique()) == 10 for d in (data.train, data.held_out, data.test))
    assert data.train.x.min() == -1 and data.train.x.max() == 1


def test_bytes_become_normalised_floats_when_taken():
    x = torch.randint(256, (4, 3, 5, 5), dtype=torch.uint8)
    examples = Examples(x, torch.zeros(4), mean=[0.1, 0.2, 0.3], std=0.5)
    expected = (x[1].float() / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.5
    assert torch.allclose(examples[1][0], expected) and torch.allclose(examples[torch.tensor([0, 1])][0][1], expected)
    with pytest.raises(ValueError, match="got 3 for 4"):
        Examples(x, torch.zeros(3))


def test_overlap_by_index_and_by_content(train):
    assert overlap(Subset(train, [1, 2, 3]), Subset(Subset(train, [3, 4, 2]), [0, 1])) == 1
    assert overlap(Subset(train, [1, 2, 3]), Examples(train.x[2:6], train.y[2:6])) == 2


def test_shifts_move_whole_pictures_and_repeat():
    x = torch.zeros(50, 2, 8, 16)
    x[:, :, 4, 8] = 1
    moved = shifted(x, torch.Generator().manual_seed(0))
    rows, columns = moved[:, 0].amax(2).argmax(1), moved[:, 0].amax(1).argmax(1)
    assert torch.equal(moved.sum((2, 3)), torch.ones(50, 2))
    assert set(rows.tolist()) == {3, 4, 5} and set(columns.tolist()) == {6, 7, 8, 9, 10}
    assert torch.equal(moved, shifted(x, torch.Generator().manual_seed(0)))
    assert mirrored(x, torch.Generator().manual_seed(0)).shape == x.shape
    assert shifted(torch.randn(5, 7), torch.Generator().manual_seed(0)).shape == (5, 7)


def test_parquet_and_picture_folders(tmp_path):
    datasets = pytest.importorskip("datasets")
    import numpy as np
    from PIL import Image

    pixels = [np.full((4, 4, 3), 10 * k, dtype=np.uint8) for k in range(20)]
    for k, p in enumerate(pixels):
        (tmp_path / "folder" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(p).save(tmp_path / "folder" / "ab"[k % 2] / f"{k:02d}.png")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"img": [Image.fromarray(p) for p in pixels], "label": [k % 2 for k in range(20)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "all.parquet")
    for source in (tmp_path / "folder", tmp_path / "all.parquet"):
        data = load_data(str(source), size=4)
        assert data.classes == ["a", "b"] and len(data.train) + len(data.held_out) + len(data.test) == 20
        values = torch.cat([data.train.x, data.held_out.x, data.test.x])[:, 0, 0, 0]
        labels = torch.cat([data.train.y, data.held_out.y, data.test.y])
        assert values.sort().values.tolist() == list(range(0, 200, 10)) and torch.equal(values // 10 % 2, labels)
    with pytest.raises(ValueError, match="cannot read the data"):
        load_data(str(tmp_path / "nothing"))


def test_data_name_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"semu-diffusion\[classify\]"):
        load_data("digits")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"semu-diffusion\[data\]"):
        load_data("some/name")


# --- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "weights", "side"), [("resnet18", 11_173_962, 8), ("vgg16", 14_724_042, 16)])
def test_own_models_have_the_published_size_and_come_back(tmp_path, name, weights, side):
    with torch.device("meta"):
        full = load_classifier(name, 10, 3, width=64)
    assert sum(p.numel() for p in full.parameters()) == weights
    model = load_classifier(name, 10, 1, width=2).eval()
    save_classifier(model, tmp_path)
    x = torch.randn(2, 1, side, side)
    assert torch.equal(load_classifier(str(tmp_path))(x), model(x)) and model(x).shape == (2, 10)
    assert torch.equal(load_classifier(name, 10, 1, 2).head.weight, model.head.weight)  # the same seed


def test_unknown_models_end_in_one_line(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no classifier .*known: resnet18, vgg16, timm/"):
        load_classifier(str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="needs timm"):
        load_classifier("timm/resnet18")


# --- unlearning --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["euclidean", "remain"])
def test_forgets_the_class_keeps_the_rest_and_is_off_exactly(net, trained, train, held_out, geometry):
    split = class_split(train.y, 3)
    forget, retain = Subset(train, split.forget), Subset(train, split.retain)
    before = copy.deepcopy(net.state_dict())
    noisy = lambda x, generator: x + 0.1 * torch.randn(x.shape, generator=generator)  # noqa: E731
    options = QUICK | {"epochs": 30, "geometry": geometry, "augment": noisy}
    result = unlearn(net, forget, held_out=held_out, whole_class=True, **options)
    assert hits(trained, forget) > 0.9 and hits(net, forget) == 0 and hits(net, retain) > 0.6
    assert result.facts["stop"] | {"epochs": 0} == {
        "rule": "accuracy", "compared_with": "whole class", "target": 0.01, "reached": True, "epochs": 0,
        "value": result.history[-1]["accuracy"],
    }  # fmt: skip
    with adapter_off(net):
        assert torch.equal(predict(net, train), predict(trained, train))
    assert hits(net, forget) == 0  # on again
    assert not any(p.requires_grad for p in net.parameters()) and not net.training
    after = {k.replace(".base_layer", ""): v for k, v in net.state_dict().items()}
    assert all(torch.equal(after[k], v) for k, v in before.items())  # statistics of BatchNorm among them


def test_retain_data_keep_more(trained, train):
    split = class_split(train.y, 3)
    kept, rest = [], Subset(train, split.retain)
    for retain in (None, rest):
        net = copy.deepcopy(trained)
        options = QUICK | {"epochs": 10, "stop": "never", "geometry": "euclidean"}
        result = unlearn(net, Subset(train, split.forget), retain, whole_class=True, **options)
        kept.append(nn.functional.cross_entropy(predict(net, rest), labels_of(rest)).item())
        assert ("retain" in result.history[0]) == (retain is not None)
    assert kept[1] < kept[0]


def test_a_class_beside_retain_data_takes_all_epochs_for_the_rest_to_recover(net, train):
    split = class_split(train.y, 3)
    forget, rest = Subset(train, split.forget), Subset(train, split.retain)
    options = QUICK | {"epochs": 30, "geometry": "euclidean", "whole_class": True}
    alone = unlearn(copy.deepcopy(net), forget, **options)
    result = unlearn(net, forget, rest, **options)
    assert alone.facts["stop"]["reached"] and len(alone.history) < 30 == len(result.history)
    assert result.facts["stop"]["reached"] and hits(net, forget) <= 0.01 and hits(net, rest) == 1
    slow = abs(result.history[-1]["loss"] - result.history[-2]["loss"])  # the learning rate has fallen to almost 0
    assert slow < 0.05 * abs(result.history[-1]["loss"] - result.history[0]["loss"])


def test_alpha_zero_leaves_the_retain_set_to_the_geometry(net, train):
    split = random_split(train.y, 0.2)
    result = unlearn(net, Subset(train, split.forget), Subset(train, split.retain), alpha=0, **QUICK)
    assert "retain" not in result.history[0] and result.facts["geometry_inputs"] == "retain data"


@pytest.mark.parametrize("stop", ["confidence", "accuracy", "loss"])
def test_stops_where_the_forget_set_is_like_unseen_data(net, trained, train, held_out, stop):
    forget = Subset(train, random_split(train.y, 0.2).forget)
    options = QUICK | {"epochs": 40, "lr": 0.01}
    result = unlearn(net, forget, held_out=held_out, stop=stop, **options)
    logits, labels = predict(trained, held_out), held_out.y
    unseen = {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "confidence": logits.double().softmax(1)[torch.arange(80), labels].mean().item(),
        "loss": nn.functional.cross_entropy(logits, labels).item(),
    }
    found, last = result.facts["stop"], result.history[-1]
    assert found["compared_with"] == "held-out data" and found["target"] == pytest.approx(unseen[stop])
    assert found["reached"] and found["epochs"] == len(result.history) < 40 and 0 < last["part"] <= 1
    far = -1 if stop == "loss" else 1  # the target is just met: one example, or a little of the mean
    assert -0.03 <= far * (found["value"] - unseen[stop]) <= 1e-9
    assert found["value"] == last[stop]


@pytest.mark.parametrize(
    ("stop", "expected"), [("accuracy", lambda v: 1 - 2**0.3 * (1 - v)), ("loss", lambda v: 2**0.3 * v)]
)
def test_half_the_data_forgotten_the_stop_rule_expects_less_of_unseen_data(net, train, held_out, stop, expected):
    forget = Subset(train, random_split(train.y, 0.2).forget)
    options = QUICK | {"epochs": 1, "stop": stop, "geometry": "euclidean"}
    whole, half = (unlearn(copy.deepcopy(net), forget, held_out=held_out, share=s, **options) for s in (None, 0.5))
    assert half.facts["stop"]["target"] == pytest.approx(expected(whole.facts["stop"]["target"]))
    assert less_trained("accuracy", 0.1, 0.9) == 0
    given = unlearn(net, forget, share=0.5, target=0.5, **options)
    assert given.facts["stop"]["target"] == 0.5


def test_without_held_out_data_the_forget_sets_own_copies_are_unseen(net, train):
    forget = Subset(train, random_split(train.y, 0.2).forget)
    facts = unlearn(net, forget, **QUICK).facts
    assert facts["stop"]["compared_with"] == facts["geometry_inputs"] == "augmented forget data"
    facts = unlearn(merge_adapter(net), forget, geometry="euclidean", stop="never", **QUICK).facts
    assert facts["geometry_inputs"] is None and facts["stop"]["target"] is None and facts["stop"]["epochs"] == 6


def test_held_out_examples_of_a_forgotten_class_are_not_kept(net, train, held_out):
    forget = Subset(train, class_split(train.y, 3).forget)
    only = Examples(held_out.x[held_out.y == 3], held_out.y[held_out.y == 3])
    facts = unlearn(net, forget, held_out=only, whole_class=True, **QUICK).facts
    assert facts["geometry_inputs"] == "augmented forget data"


def test_labels_are_redrawn_each_epoch_and_everything_repeats(trained, train, held_out):
    forget = Subset(train, random_split(train.y, 0.2).forget)
    nets = [copy.deepcopy(trained) for _ in range(3)]
    options = QUICK | {"epochs": 3, "stop": "never"}
    runs = [unlearn(n, forget, held_out=held_out, seed=s, **options) for n, s in zip(nets, (0, 0, 1))]
    assert runs[0].history == runs[1].history != runs[2].history
    assert torch.equal(predict(nets[0], train), predict(nets[1], train))


def test_saved_loaded_and_merged_models_agree(net, trained, train, held_out, tmp_path):
    split = random_split(train.y, 0.2)
    result = unlearn(net, Subset(train, split.forget), held_out=held_out, **QUICK)
    result.save(tmp_path / "a", "net", {"note": 1})
    fresh = copy.deepcopy(trained)
    config = load_adapter(fresh, tmp_path / "a")
    assert torch.equal(predict(fresh, train), predict(net, train)) and config.about["alpha"] == 1.0
    merged = merge_adapter(fresh)
    assert not semu_layers(merged) and [type(m) for m in merged.modules()] == [type(m) for m in trained.modules()]
    assert torch.allclose(predict(merged, train), predict(net, train), atol=1e-4)
    saved = json.loads((tmp_path / "a" / "results.json").read_text())
    assert saved["training"]["trained"] == sum(r * r for r in saved["training"]["ranks"].values())
    assert saved["note"] == 1 and saved["options"] == UnlearnConfig(**QUICK).to_dict()
    assert saved["training"]["adapter_bytes"] == (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    with pytest.raises(ValueError, match="carries no SEMU adapter"):
        merge_adapter(merged)


class Dicts(Dataset):
    """Examples as an image processor of transformers gives them."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        x, y = self.examples[index]
        return {"pixel_values": x, "label": y}


def test_a_transformers_classifier(tmp_path, train):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = ViTConfig(**sizes, image_size=6, patch_size=3, num_channels=1, num_labels=4)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    model, again = load_classifier(str(tmp_path / "vit")), load_classifier(str(tmp_path / "vit"))
    forget = Dicts(Subset(train, range(40)))
    untouched = predict(model, forget)
    unlearn(model, forget, geometry="euclidean", stop="never", **QUICK).save(tmp_path / "a")
    assert isinstance(logits_of(model(pixel_values=train.x[:2])), torch.Tensor)
    load_adapter(again, tmp_path / "a")
    changed = predict(again, forget)
    assert torch.equal(changed, predict(model, forget)) and not torch.allclose(changed, untouched, atol=1e-3)
    merge_adapter(model).save_pretrained(tmp_path / "merged")
    assert torch.allclose(predict(load_classifier(str(tmp_path / "merged")), forget), changed, atol=1e-5)


# --- mistakes ----------------------------------------------------------------------------------------------------


class Broken(Net):
    def forward(self, x):
        return super().forward(x) / 0 * 0


class Maps(Net):
    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(forget=(torch.randn(3, 1, 6, 6), torch.tensor([0, 4, 1]))), r"forget set: labels must be in 0..3"),
        (dict(forget=(torch.randn(3, 1, 6, 6), torch.tensor([0, -1, 1]))), "got -1..1"),
        (dict(forget=(torch.randn(3, 1, 6, 6), torch.rand(3))), "labels must be whole numbers"),
        (dict(forget=(torch.randn(0, 1, 6, 6), torch.zeros(0, dtype=torch.long))), "forget set is empty"),
        (dict(retain=(torch.randn(2, 1, 6, 6), torch.tensor([0, 9]))), "retain set: labels must be in 0..3, .* 0..9"),
        (dict(retain="forget"), "retain set holds 3 examples of the forget set"),
        (dict(held_out="forget"), "held-out set holds 3 examples of the forget set"),
        (dict(model=nn.Sequential(nn.Flatten(), nn.LayerNorm(36))), "no Linear or Conv2d layer"),
        (dict(model=Broken()), r"logits are not finite \(NaN or infinite\) for 1 of 1 inputs"),
        (dict(model=Maps()), r"must return logits \(batch, classes\), got \(1, 8, 6, 6\)"),
        (dict(gamma=0.0), r"gamma must be in \(0, 1\]"),
        (dict(share=1.0), r"share must be in \[0, 1\)"),
        (dict(stop="soon"), "stop must be one of confidence, accuracy, loss, never"),
        (dict(geometry="flat"), "geometry must be euclidean or remain"),
        (dict(alpha=float("nan")), "alpha must not be negative"),
        (dict(target_modules="nothing"), "no Linear or Conv2d layer that target_modules names"),
    ],
)
def test_mistakes_end_in_one_clear_line(net, train, change, says):
    arguments = {"model": net, "forget": TensorDataset(train.x[:3], train.y[:3])} | change
    arguments = {k: arguments["forget"] if isinstance(v, str) and v == "forget" else v for k, v in arguments.items()}
    with pytest.raises(ValueError, match=says) as error:
        unlearn(**arguments)
    assert "\n" not in str(error.value)


def test_a_second_adapter_needs_a_merge_first(net, train):
    forget = Subset(train, range(20))
    unlearn(net, forget, **QUICK)
    with pytest.raises(ValueError, match="carries a SEMU adapter already"):
        unlearn(net, forget, **QUICK)


# --- semu classify -----------------------------------------------------------------------------------------------


FAST = ["--width", 2, "--train-epochs", 1, "--epochs", 1]


def test_classify_writes_what_it_says(semu, tmp_path):
    out = tmp_path / "out"
    status, said, error = semu("classify", "--output", out, "--forget-class", 3, "--json", *FAST)
    assert status == 0, error
    said, saved = json.loads(said), json.loads((out / "results.json").read_text())
    assert {p.name for p in out.iterdir()} - {".semu"} == {
        "adapter_model.safetensors", "adapter_config.json", "results.json", "split.json", "README.md", "base"
    }  # fmt: skip
    assert list(said["table"]) == list(saved["table"]) and set(said["table"]) == {"original", "semu", "retrain"}
    row = said["table"]["semu"]
    assert {"UA", "UA_test", "RA", "TA", "MIA", "gap", "RMIA", "KL", "seconds", "trained", "bytes"} == set(row)
    assert said["table"]["retrain"]["gap"] == said["table"]["retrain"]["KL"] == 0
    data, split = load_data("digits"), Split.load(out / "split.json")
    assert split == class_split(data.train.y, 3)
    model = load_classifier(str(out / "base"))
    forget = Subset(data.train, split.forget)
    assert 100 * (1 - hits(model, forget)) == pytest.approx(said["table"]["original"]["UA"], abs=1e-4)
    load_adapter(model, out)
    assert 100 * (1 - hits(model, forget)) == pytest.approx(row["UA"], abs=1e-4)
    assert saved["options"]["whole_class"] and saved["training"]["geometry_inputs"] == "held-out data"


def test_classify_prints_a_table_and_keeps_what_is_there(semu, tmp_path):
    out = tmp_path / "out"
    status, said, error = semu("classify", "--output", out, "--quiet", "--shadow-pairs", 0, "--alpha", 1, *FAST)
    assert status == 0 and not error
    assert all(word in said for word in ("UA", "RA", "TA", "MIA", "retrain", "semu", "original")) and "RMIA" not in said
    status, _, error = semu("classify", "--output", out, *FAST)
    assert status == 2 and "use --overwrite" in error
    again = ["--overwrite", "--json", "--model", out / "base", "--train-epochs", 0]
    status, said, _ = semu("classify", "--output", out, *again)
    assert status == 0 and set(json.loads(said)["table"]) == {"original", "semu"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--forget-class", 12], "no example of class 12"),
        (["--forget-fraction", 2], "fraction to forget must be in"),
        (["--forget-fraction", 0.5, "--forget-class", 3], "give one of"),
        (["--forget-index", "nowhere.txt"], "is no list of indices"),
        (["--gamma", 2], "gamma must be in"),
        (["--geometry", "flat"], "geometry must be"),
        (["--model", "nowhere"], "no classifier 'nowhere'"),
        (["--data", "nowhere"], "cannot read the data 'nowhere'"),
        (["--device", "toaster"], "cannot use device 'toaster'"),
    ],
)
def test_classify_ends_in_one_line_for_every_mistake(semu, tmp_path, arguments, says):
    status, said, error = semu("classify", "--output", tmp_path / "out", "--quiet", *arguments)
    assert status == 2 and not said and says in error and error.startswith("semu: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
