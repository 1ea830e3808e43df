"""Labels drawn as the model ranks the other classes, and a stop at a value that is given."""

import copy

import pytest
import torch
from torch.utils.data import Subset

from semu_diffusion.classification import UnlearnConfig, predict, random_split, unlearn
from semu_diffusion.classification.data import labels_of
from semu_diffusion.classification.losses import likely_labels
from semu_diffusion.metrics.membership import true_confidence


def test_likely_labels_follow_the_models_own_ranking():
    logits = torch.tensor([0.7, 0.05, 0.15, 0.1]).log().expand(20_000, 4)
    labels = torch.zeros(20_000, dtype=torch.long)
    drawn = likely_labels(logits, labels, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares[0] == 0 and torch.allclose(shares[1:], torch.tensor([1, 3, 2]) / 6, atol=0.015)
    drawn = likely_labels(logits, labels, torch.Generator().manual_seed(0), forgotten=(0, 2))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares[0] == shares[2] == 0 and shares[3].item() == pytest.approx(2 / 3, abs=0.015)
    again = likely_labels(logits, labels, torch.Generator().manual_seed(0), forgotten=(0, 2))
    assert torch.equal(drawn, again)
    with pytest.raises(ValueError, match="no other class"):
        likely_labels(logits, labels, torch.Generator(), forgotten=(1, 2, 3))


def test_likely_labels_keep_more_of_the_ranking(classifier, examples):
    """Of two models that know the forget set equally little, the one with likely labels is nearer to the original."""
    split = random_split(examples.y, 0.2)
    forget, moved = Subset(examples, split.forget), {}
    before = predict(classifier, forget)
    others = torch.ones_like(before).scatter(1, labels_of(forget)[:, None], 0).bool()
    ranking = before[others].view(len(forget), -1).log_softmax(1)
    for labels in ("uniform", "likely"):
        model = copy.deepcopy(classifier)
        options = {"epochs": 60, "lr": 0.03, "batch_size": 16, "max_rank": 8, "geometry": "euclidean",
                   "gradient": "random"}  # fmt: skip
        result = unlearn(model, forget, stop="confidence", target=0.6, labels=labels, **options)
        assert result.facts["stop"]["reached"] and result.facts["stop"]["compared_with"] == "the given target"
        logits = predict(model, forget)
        assert 0.55 < true_confidence(logits, labels_of(forget)).mean() <= 0.6 + 1e-9
        found = logits[others].view(len(forget), -1).log_softmax(1)
        moved[labels] = (ranking.exp() * (ranking - found)).sum(1).mean().item()
    assert moved["likely"] < moved["uniform"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": "best"}, "labels must be one of uniform, likely"),
        ({"target": 1.5}, r"target must be in \[0, 1\]"),
        ({"target": float("nan")}, r"target must be in \[0, 1\]"),
        ({"target": -1.0, "stop": "loss"}, "for stop loss at least 0"),
        ({"target": 0.5, "whole_class": True}, "target is not for whole classes"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        UnlearnConfig(**options)
    assert UnlearnConfig(target=3.0, stop="loss").target == 3.0
