"""The card of a classifier's adapter folder, and its way over the Hub with its base model."""

import re

import pytest
import torch
from classifiers import Net, pictures

from semu_diffusion.classification import Data, class_split, compare, load_classifier, predict
from semu_diffusion.classification.card import HERE, markdown, shown
from semu_diffusion.classification.comparison import Training
from semu_diffusion.classification.config import UnlearnConfig
from semu_diffusion.hub.transfer import pull, push_to_hub, to_push


@pytest.fixture(scope="module")
def data():
    return Data(pictures(120, 0), pictures(40, 1), pictures(40, 2), list("abcd"), "patterns")


@pytest.fixture(scope="module")
def result(data):
    torch.manual_seed(0)
    config = UnlearnConfig(alpha=0, epochs=2, batch_size=16, max_rank=2)
    model = load_classifier("resnet18", 4, 1, width=2)
    return compare(model, data, class_split(data.train.y, 3), Training(1, batch_size=32), config, pairs=0)


def test_the_card_says_what_was_measured(result, tmp_path):
    result.save(tmp_path / "out", "/home/me/resnet18", "/data/patterns")
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\n") and "pipeline_tag: image-classification" in text and "- semu" in text
    assert "resnet18 that forgot class 3" in text and markdown(result.rows) in text and "/home/me" not in text
    assert f"| UA | {result.rows['original']['UA']:.2f} | {result.rows['retrain']['UA']:.2f} |" in text
    assert f"{result.rows['semu']['trained']:,} trained numbers" in text
    assert (shown("UA", 1.234), shown("bytes", 12345), shown("gap", None)) == ("1.23", "12,345", "-")


def test_bytes_are_those_of_the_factors_and_of_the_whole_model_for_the_others(result):
    sizes = [t.numel() * 4 for k, t in result.unlearning.model.state_dict().items() if "semu_" in k]
    assert result.rows["semu"]["bytes"] == sum(sizes)
    whole = sum(t.numel() * t.element_size() for t in result.base.state_dict().values())
    assert result.rows["original"]["bytes"] == result.rows["retrain"]["bytes"] == whole


def test_pushed_and_used_as_the_card_says(result, data, tmp_path, hub, monkeypatch):  # noqa: F811
    folder, repo = tmp_path / "out", "someone/no-threes"
    result.save(folder, "resnet18", "patterns")
    assert {"base/model.json", "base/model.safetensors", "README.md"} <= set(to_push(folder, repo))
    push_to_hub(folder, repo)
    card = hub.repos[repo]["main"]["README.md"].decode()
    assert HERE not in card and f'local("{repo}")' in card
    assert (pull(repo) / "base" / "model.safetensors").is_file()
    scope = {}
    exec(re.search(r"```python\n(.*?)```", card, re.S).group(1), scope)
    assert torch.equal(predict(scope["model"], data.test), predict(result.unlearning.model, data.test))


def test_a_model_without_a_name_of_its_own_is_saved_too(data, tmp_path):
    torch.manual_seed(0)
    config = UnlearnConfig(alpha=0, epochs=1, batch_size=32, max_rank=2, geometry="euclidean")
    result = compare(Net(), data, class_split(data.train.y, 3), Training(0), config, pairs=0)
    result.save(tmp_path, "", "patterns")
    assert "# a classifier that forgot class 3" in (tmp_path / "README.md").read_text()
