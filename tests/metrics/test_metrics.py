"""Metrics against closed forms and hand counts; scores of pictures that a fake oracle reads without error."""

import copy
import pickle

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import nn

from semu_diffusion.evaluation import (
    Cell,
    before_after,
    bootstrap,
    cells,
    concept_chart,
    evaluate,
    loss_chart,
    score,
    showcase,
    split,
    wilson,
)
from semu_diffusion.evaluation.charts import smooth
from semu_diffusion.metrics import ConceptAccuracy, Naturalness, PictureDrift, feature_fid
from semu_diffusion.metrics.naturalness import nearest, roughness, typical_distance, typical_roughness
from semu_diffusion.pictograms.oracle import Oracle
from semu_diffusion.pictograms.words import NEIGHBOURS, OBJECTS, STYLES, caption


class FakeOracle(nn.Module):
    """Reads object and style off two pixels, where `paint` put them; its features are the first row's six pixels."""

    num_features = 6

    def features(self, images):
        return images[:, :2, 0, :3].flatten(1)

    def forward(self, images):
        pixels = (images[:, 0, 0, :2] * 100).round().long()
        one_hot = nn.functional.one_hot
        return one_hot(pixels[:, 0], len(OBJECTS)).float(), one_hot(pixels[:, 1], len(STYLES)).float()


def paint(obj: str, style: str, seed: int = 0) -> torch.Tensor:
    """A picture (3, 8, 8) in which the fake oracle sees this object and this style."""
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))
    image[0, 0, :2] = torch.tensor([OBJECTS.index(obj), STYLES.index(style)]) / 100
    return image


def painter(replace: dict[str, str] | None = None, calls: list | None = None):
    """A model that draws what its prompt says, except that it replaces some words."""
    replace = replace or {}
    cell_of = {caption(o, s): (o, s) for o in OBJECTS for s in STYLES}

    def draw(prompts, seeds):
        if calls is not None:
            calls.extend(zip(prompts, seeds))
        words = [(replace.get(o, o), replace.get(s, s)) for o, s in map(cell_of.get, prompts)]
        return torch.stack([paint(o, s, seed) for (o, s), seed in zip(words, seeds)])

    return draw


def copies(metric) -> list:
    return [copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()]


def merged(*metrics):
    """What the sum over processes gives: one metric with the states of all."""
    total = metrics[0].clone()
    for name, reduction in total._reductions.items():
        states = [torch.cat(s) if isinstance(s, list) else s for s in (getattr(m, name) for m in metrics)]
        listed = isinstance(getattr(total, name), list)
        setattr(total, name, reduction(states if listed else torch.stack(states)))
    total._update_count = sum(m._update_count for m in metrics)
    return total


# --- ConceptAccuracy ---------------------------------------------------------------------------------------------


def test_concept_accuracy_by_hand():
    metric = ConceptAccuracy(num_classes=4)
    logits = torch.eye(4)[[0, 0, 1, 2, 2]]
    metric.update(logits[:2], torch.tensor([0, 1]))
    metric.update(logits[2:], torch.tensor([1, 1, 2]))
    result = metric.compute()
    assert result["accuracy"] == 3 / 5
    np.testing.assert_array_equal(result["per_class"], [1, 1 / 3, 1, np.nan])


def test_concept_accuracy_against_numpy():
    logits, labels = torch.randn(200, 7), torch.randint(0, 7, (200,))
    metric = ConceptAccuracy(num_classes=7)
    for part in torch.arange(200).split(33):
        metric.update(logits[part], labels[part])
    right, y = logits.numpy().argmax(1) == labels.numpy(), labels.numpy()
    assert metric.compute()["accuracy"].item() == pytest.approx(right.mean())
    np.testing.assert_allclose(metric.compute()["per_class"], [right[y == c].mean() for c in range(7)])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 4), torch.tensor([0, 1]), r"expected floats \(B, 3\), got torch.float32 \(2, 4\)"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), "got torch.int64"),
        (torch.zeros(2, 3), torch.tensor([0]), r"expected int64 \(2,\), got torch.int64 \(1,\)"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "got torch.float32"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "expected 0..2, got 0..3"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "got -1..0"),
        (torch.full((2, 3), float("nan")), torch.tensor([0, 1]), "2 of 2 rows hold NaN"),
    ],
)
def test_concept_accuracy_refuses(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        ConceptAccuracy(num_classes=3).update(logits, labels)


def test_concept_accuracy_needs_classes():
    with pytest.raises(ValueError, match="got 0"):
        ConceptAccuracy(num_classes=0)


# --- PictureDrift ------------------------------------------------------------------------------------------------


def test_picture_drift_by_hand():
    metric = PictureDrift()
    metric.update(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5))
    metric.update(torch.ones(3, 3, 8, 8), torch.ones(3, 3, 8, 8))  # another size: pairs count, not pixels
    assert metric.compute() == 0.5 / 4


def test_picture_drift_against_numpy():
    base, other = torch.rand(9, 3, 6, 5), torch.rand(9, 3, 6, 5)
    metric = PictureDrift()
    for part in torch.arange(9).split(4):
        metric.update(base[part], other[part])
    assert metric.compute().item() == pytest.approx(np.abs(base.double().numpy() - other.double().numpy()).mean())


@pytest.mark.parametrize(
    ("base", "other", "message"),
    [
        (torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), -1.0), r"other: .* in \[0, 1\], got -1..-1"),
        (torch.full((1, 3, 4, 4), 255.0), torch.zeros(1, 3, 4, 4), "base: .* got 255..255"),
        (torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), float("nan")), "got nan"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4), "base: .* got torch.uint8"),
        (torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3), r"got torch.float32 \(1, 4, 4, 3\)"),
        (torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), r"got torch.float32 \(3, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4), "pairs of one shape"),
    ],
)
def test_picture_drift_refuses(base, other, message):
    with pytest.raises(ValueError, match=message):
        PictureDrift().update(base, other)


# --- FID ---------------------------------------------------------------------------------------------------------


class Corner(nn.Module):
    """A linear map of the corner's pixels to four features, with dropout that must never act."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(12, 4), nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(self.linear(images[:, :, :2, :2].flatten(1)))


def closed_form(a: np.ndarray, b: np.ndarray) -> float:
    """||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features (N, d)."""
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2)).real


def fid_of(network, real, fake, batch: int):
    metric = feature_fid(network)
    for part in real.split(batch):
        metric.update(part, real=True)
    for part in fake.split(batch):
        metric.update(part, real=False)
    return metric


def test_fid_closed_form_and_invariance():
    network, real, fake = Corner().train(), torch.rand(50, 3, 8, 8), torch.rand(40, 3, 8, 8) ** 2
    value = fid_of(network, real, fake, 50).compute()
    assert value.dtype == torch.float64 and value > 0.01
    features = [network(x).detach().double().numpy() for x in (real, fake)]
    torch.testing.assert_close(value.item(), closed_form(*features), rtol=1e-6, atol=1e-9)
    shuffled = fid_of(network, real.flip(0), fake[torch.randperm(40)], 7).compute()
    torch.testing.assert_close(shuffled, value, rtol=1e-5, atol=1e-8)
    assert abs(fid_of(network, real, real.flip(0), 9).compute()) < 1e-6


def test_fid_of_gaussians():
    """N(0, 1) against N(1, 2^2) per axis: 1 + (2 - 1)^2 for each of the d axes, here with whitened samples."""

    class Give(nn.Module):
        num_features = 3

        def forward(self, images):
            return images[:, :, 0, 0] * 100 - 50

    x = np.random.default_rng(0).normal(size=(64, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T  # mean 0, covariance I, exactly
    real, fake = (torch.tensor((y + 50) / 100).reshape(64, 3, 1, 1) for y in (x, 2 * x + 1))
    assert fid_of(Give(), real, fake, 10).compute().item() == pytest.approx(6, rel=1e-9)


def test_fid_of_the_oracle():
    oracle = Oracle(width=4).eval()
    metric = feature_fid(oracle)
    images = torch.rand(4, 3, 64, 64)
    metric.train()  # a trainer that owns the metric may do that; BatchNorm must not follow
    assert not oracle.training
    metric.update(images, real=True)
    torch.testing.assert_close(metric.real_features_sum, oracle.features(images).double().sum(0), rtol=1e-5, atol=1e-7)


def test_fid_refuses():
    metric = feature_fid(Corner())
    with pytest.raises(ValueError, match=r"in \[0, 1\], got -1..1"):
        metric.update(torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8), real=True)
    with pytest.raises(ValueError, match="got torch.uint8"):
        metric.update(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), real=True)
    with pytest.raises(TypeError, match="integer `num_features`, got Linear"):
        feature_fid(nn.Linear(2, 2))
    wrong = Corner()
    wrong.num_features = 5
    with pytest.raises(ValueError, match=r"expected \(2, 5\), the network gave \(2, 4\)"):
        feature_fid(wrong).update(torch.rand(2, 3, 8, 8), real=True)


# --- Naturalness -------------------------------------------------------------------------------------------------


def test_naturalness_against_numpy():
    generator = torch.Generator().manual_seed(0)
    real, fake = 3 * torch.randn(60, 5, generator=generator), 2 * torch.randn(200, 5, generator=generator)
    metric = Naturalness(share=0.9)
    for part in real.split(7):
        metric.update(part, real=True)
    metric.update(fake, real=False)
    sure = [np.exp(x).max(1) / np.exp(x).sum(1) for x in (real.double().numpy(), fake.double().numpy())]
    assert metric.compute().item() == pytest.approx(np.mean(sure[1] >= np.quantile(sure[0], 0.1)), abs=1e-9)


def test_naturalness_of_the_same_is_its_share():
    logits = torch.linspace(0, 4, 1000)[:, None] * torch.tensor([1.0, 0.0])
    metric = Naturalness()
    metric.update(logits, real=True)
    metric.update(logits, real=False)
    assert metric.compute().item() == pytest.approx(0.95, abs=2e-3)


def test_naturalness_without_enough_and_refusals():
    metric = Naturalness()
    assert metric.compute().isnan()
    metric.update(torch.eye(2).repeat(9, 1), real=True)  # 18
    metric.update(torch.eye(2), real=False)
    assert metric.compute().isnan()
    with pytest.raises(ValueError, match="without NaN"):
        metric.update(torch.tensor([[float("nan"), 0.0]]), real=True)
    with pytest.raises(ValueError, match=r"\(B, C\)"):
        metric.update(torch.zeros(3), real=True)


def test_distances_and_roughness_by_hand():
    x, names = torch.tensor([[0.0], [1.0], [5.0], [5.5]]), torch.tensor([0, 0, 1, 1])
    assert typical_distance(x, names, share=1.0) == 1.0 and typical_distance(x[:1], names[:1]) == 0.0
    assert nearest(x, x, ~torch.eye(4, dtype=torch.bool)).tolist() == [1.0, 1.0, 0.5, 0.5]
    checks = torch.zeros(1, 3, 4, 4)
    checks[:, :, ::2] = 1.0  # rows alternate: all vertical neighbours differ by 1, no horizontal ones
    assert roughness(torch.cat([checks, torch.full((1, 3, 4, 4), 0.3)])).tolist() == [0.5, 0.0]
    noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert roughness(noise).item() == pytest.approx(1 / 3, abs=5e-3)  # E|u - v| of uniform u and v
    low, high = typical_roughness(torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64))
    assert (low, high) == (pytest.approx(0.1 / 1.5), pytest.approx(0.45))


# --- all metrics -------------------------------------------------------------------------------------------------


def add_accuracy(metric, part):
    metric.update(torch.eye(3)[part % 3], part % 2)


def add_drift(metric, part):
    base = part.reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8) / 20
    metric.update(base, base**2)


def add_fid(metric, part):
    images = torch.stack([torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(int(i))) for i in part])
    metric.update(images, real=True)
    metric.update(images**2, real=False)


def add_naturalness(metric, part):
    logits = torch.stack([part, -part], 1) / 10
    metric.update(logits.repeat(20, 1), real=True)
    metric.update(logits**2, real=False)


METRICS = {
    "naturalness": (Naturalness, add_naturalness),
    "accuracy": (lambda: ConceptAccuracy(num_classes=3), add_accuracy),
    "drift": (PictureDrift, add_drift),
    "fid": (lambda: feature_fid(FakeOracle()), add_fid),
}


@pytest.mark.parametrize("name", METRICS)
def test_two_processes_equal_one(name):
    make, add = METRICS[name]
    one, first, second = make(), make(), make()
    add(one, torch.arange(20))
    add(first, torch.arange(0, 20, 2))
    add(second, torch.arange(1, 20, 2))
    torch.testing.assert_close(merged(first, second).compute(), one.compute(), equal_nan=True, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_copies_and_reset(name):
    make, add = METRICS[name]
    metric = make()
    add(metric, torch.arange(20))
    for other in copies(metric):
        torch.testing.assert_close(other.compute(), metric.compute(), equal_nan=True)
    once = metric.compute()
    metric.reset()
    add(metric, torch.arange(20))
    torch.testing.assert_close(metric.compute(), once, equal_nan=True)
    assert metric.full_state_update is False


# --- Wilson ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (10, 10), (1, 3), (81, 263), (15, 148), (0, 20), (1, 29)])
def test_wilson_against_scipy(hits, total):
    expected = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert wilson(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_published():
    """Newcombe 1998, table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses(hits, total):
    with pytest.raises(ValueError, match=f"got {hits} of {total}"):
        wilson(hits, total)


# --- bootstrap ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 500])
def test_bootstrap_against_scipy(count):
    """Percentiles of the mean over other resamples, as near as 1,000 of them let ends be."""
    values = np.random.default_rng(count).gamma(2.0, size=count)
    test = scipy.stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", random_state=1)
    error = values.std() / count**0.5
    assert bootstrap(values) == pytest.approx(list(test.confidence_interval), abs=0.2 * error)
    assert bootstrap(values, total=True) == pytest.approx([count * end for end in bootstrap(values)])


def test_bootstrap_of_one_of_equals_and_of_none():
    assert bootstrap([3.0]) == [3.0, 3.0] and bootstrap([0.5] * 7) == [0.5, 0.5] and bootstrap([]) is None


# --- cells -------------------------------------------------------------------------------------------------------


def test_split():
    assert split(["cigarette"]) == {"cigarette": "object"}
    assert split(["Sepia  Style", "cat", "sepia"]) == {"sepia": "style", "cat": "object"}
    with pytest.raises(ValueError, match="unknown concept 'van gogh', 'cat style'; known objects: cigarette, .*sepia"):
        split(["van gogh", "cat", "cat style"])
    with pytest.raises(ValueError, match="no concept; known objects"):
        split([])


def test_cells_of_an_object():
    forget, keep = cells(["cigarette"], seeds_forget=10, seeds_keep=2)
    assert len(forget) == 6 * 10 and {c.object for c in forget} == {"cigarette"}
    assert len(keep) == 23 * 6 * 2 and "cigarette" not in {c.object for c in keep}
    assert {c.style for c in forget} == {c.style for c in keep} == set(STYLES)


def test_cells_of_a_style():
    forget, keep = cells(["sepia style"], seeds_forget=10)
    assert len(forget) == 24 * 3 and {c.style for c in forget} == {"sepia"}
    assert len(keep) == 24 * 5 and "sepia" not in {c.style for c in keep}
    assert len(cells(["sepia"], seeds_forget=2)[0]) == 24  # at least one each


def test_cells_of_both():
    forget, keep = cells(["cat", "dog", "neon"], seeds_forget=6)
    assert len(forget) == 2 * 6 * 6 + 22 * 2 and len(keep) == 22 * 5
    assert all({"cat", "dog", "neon"} & {*c} for c in forget) and not any({"cat", "dog", "neon"} & {*c} for c in keep)


def test_cells_are_the_same_for_every_concept():
    everything = [c for name in ("cat", "sepia") for part in cells([name]) for c in part]
    assert everything == [c for name in ("cat", "sepia") for part in cells([name]) for c in part]
    assert len({c.seed for c in everything}) == len(set(everything))  # one seed per cell, whatever is erased
    assert set(cells(["dog"])[1]) & set(cells(["cat"])[0])  # kept of one, forgotten of the other: drawn once
    assert Cell("cat", "neon", 0).prompt == "a picture of a cat in neon style"


@pytest.mark.parametrize("seeds", [{"seeds_forget": 0}, {"seeds_keep": 0}, {"seeds_keep": 1001}])
def test_cells_refuse(seeds):
    with pytest.raises(ValueError, match="expected 1..1000"):
        cells(["cat"], **seeds)


# --- score -------------------------------------------------------------------------------------------------------


def pictures(seen: list[tuple[str, str]]) -> torch.Tensor:
    return torch.stack([paint(*names, seed=i) for i, names in enumerate(seen)])


def test_score_by_hand():
    asked_forget = [Cell("cat", style, 0) for style in ("photo", "photo", "neon", "sepia")]
    seen_forget = [("dog", "photo"), ("cat", "photo"), ("tree", "neon"), ("car", "photo")]  # 3 of 4 gone, 3 styles
    asked_keep = [Cell("dog", "photo", 0), Cell("dog", "neon", 0), Cell("tree", "photo", 0), Cell("car", "sepia", 0),
                  Cell("fish", "sketch", 0)]  # fmt: skip
    seen_keep = [("dog", "photo"), ("tree", "neon"), ("tree", "neon"), ("car", "neon"), ("fish", "sketch")]
    base = pictures([(c.object, c.style) for c in asked_keep])
    seen = pictures(seen_forget), pictures(seen_keep)
    row = score(seen[0], asked_forget, seen[1], asked_keep, base, ["cat"], FakeOracle())
    assert (row["UA"], row["IRA"], row["CRA"]) == pytest.approx((75, 80, 60))
    assert row["neighbours"] == 50 and row["context"] == 75
    assert row["counts"] == {"forget": 4, "keep": 5, "neighbours": 2}
    assert row["per_concept"] == {
        "cat": 25, "dog": 50, "tree": 100, "car": 100, "fish": 100,
        "photo": 50, "neon": 100, "sepia": 0, "sketch": 100,
    }  # fmt: skip
    assert row["intervals"]["UA"] == pytest.approx([100 * end for end in wilson(3, 4)])
    assert row["drift"] == pytest.approx((base - seen[1]).abs().mean().item())
    features = [FakeOracle().features(x).double().numpy() for x in (base, seen[1])]
    assert row["FID"] == pytest.approx(closed_form(*features), abs=1e-4)  # ill-conditioned with 5 pictures


def test_score_of_a_style_swaps_the_kinds():
    forget, keep = [Cell("cat", "sepia", 0), Cell("dog", "sepia", 0)], [Cell("cat", "photo", 0), Cell("cat", "neon", 0)]
    seen = pictures([("cat", "photo"), ("fish", "photo")]), pictures([("cat", "photo"), ("dog", "photo")])
    row = score(seen[0], forget, seen[1], keep, None, ["sepia style"], FakeOracle())
    assert (row["UA"], row["IRA"], row["CRA"], row["context"], row["neighbours"]) == (100, 50, 50, 50, 100)
    assert row["FID"] is None and row["drift"] is None


def test_score_of_two_kinds_and_no_neighbours():
    """A picture that shows both erased concepts counts for both; what is left of the prompt is the context."""
    forget = [Cell("car", "neon", 0), Cell("car", "photo", 0), Cell("cat", "neon", 0)]
    keep = [Cell("cat", "photo", 0), Cell("dog", "photo", 0)]
    seen = pictures([("car", "photo"), ("cat", "photo"), ("dog", "neon")]), pictures([("cat", "photo")] * 2)
    row = score(seen[0], forget, seen[1], keep, None, ["car", "neon"], FakeOracle())
    assert row["UA"] == 100 * 2 / 4 and row["context"] == 100 * 1 / 2
    assert row["IRA"] == row["CRA"] == 100 * 3 / 4
    assert row["neighbours"] is None and row["counts"]["neighbours"] == 0  # car has none, and no blueprint is drawn


def test_score_refuses():
    images, one = pictures([("cat", "photo")]), [Cell("cat", "photo", 0)]
    with pytest.raises(ValueError, match="1 images and 2 cells"):
        score(images, one * 2, images, one, None, ["cat"], FakeOracle())
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        score(images * 2 - 1, one, images, one, None, ["cat"], FakeOracle())


def test_evaluate():
    base_calls, erased_calls = [], []
    draws = painter(calls=base_calls), painter({"cat": "tree", "sketch": "photo"}, erased_calls)
    report, pairs = evaluate(*draws, ["cat"], FakeOracle(), seeds_forget=2)
    base, erased = report["base"], report["erased"]
    assert (base["UA"], base["IRA"], base["CRA"], base["neighbours"], base["context"]) == (0, 100, 100, 100, 100)
    assert base["FID"] is None and base["drift"] is None
    assert (erased["UA"], erased["IRA"], erased["neighbours"]) == (100, 100, 100)
    assert (erased["CRA"], erased["context"]) == pytest.approx((500 / 6, 500 / 6))
    assert erased["FID"] > 0 and 0 < erased["drift"] < 0.01
    assert base_calls == erased_calls and len(base_calls) == 12 + 138  # same prompts, same noise
    assert report["protocol"]["pictures"] == {"forget": 12, "keep": 138}
    assert pairs["keep"].base.shape == pairs["keep"].erased.shape == (138, 3, 8, 8)


def test_evaluate_of_an_unchanged_model():
    row = evaluate(painter(), painter(), ["neon"], FakeOracle(), seeds_forget=3)[0]["erased"]
    assert row["drift"] == 0 and 0 <= row["FID"] < 1e-6 and row["UA"] == 0


def test_base_pictures_are_drawn_once():
    cache, calls = {}, []
    first, _ = evaluate(painter(calls=calls), painter(), ["cat"], FakeOracle(), 2, 1, cache)
    assert len(calls) == len(cache) == 150
    again, _ = evaluate(painter(calls=calls), painter(), ["cat"], FakeOracle(), 2, 1, cache)
    assert len(calls) == 150 and again == first
    evaluate(painter(calls=calls), painter(), ["dog"], FakeOracle(), 2, 1, cache)
    assert len(calls) == 150 + 6  # only the dog's second seeds are new


def test_evaluate_needs_something_to_keep():
    with pytest.raises(ValueError, match="nothing is left to keep"):
        evaluate(painter(), painter(), STYLES, FakeOracle())


def test_neighbours_are_of_one_kind():
    for name, near in NEIGHBOURS.items():
        assert len({*split([name, *near]).values()}) == 1 and name not in near


# --- charts ------------------------------------------------------------------------------------------------------


def opened(path) -> np.ndarray:
    """The picture, after checks that it is a whole PNG, not blank, and alone in its folder."""
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 5
    return pixels


def test_charts_of_an_evaluation(tmp_path):
    report, pairs = evaluate(painter(), painter({"cat": "tree"}), ["cat"], FakeOracle(), seeds_forget=1)
    opened(concept_chart(report["base"], report["erased"], ["cat"], tmp_path / "concepts" / "chart.png"))
    shown = showcase(pairs, ["cat"], columns=4)
    assert shown["groups"] == ["Erased: cat"] * 4 + ["Kept, closest: dog"] * 4 + ["Kept, others"] * 4
    assert shown["titles"][:5] == ["cat, photo", "cat, watercolor", "cat, sketch", "cat, neon", "dog, photo"]
    dog = next(c for c in pairs["keep"].cells if c[:2] == ("dog", "photo"))
    torch.testing.assert_close(shown["base_images"][4], paint(*dog))
    opened(before_after(**shown, path=tmp_path / "pictures" / "sheet.png"))


def test_before_after_wraps_and_refuses(tmp_path):
    images = torch.rand(3, 3, 8, 8)
    one = opened(before_after(images, images, list("abc"), tmp_path / "one" / "sheet.png", columns=3))
    two = opened(before_after(images, images, list("abc"), tmp_path / "two" / "sheet.png", columns=2))
    assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=2) and two.shape[1] < one.shape[1]
    with pytest.raises(ValueError, match=r"got \[2, 3\]"):
        before_after(images, images, list("ab"), tmp_path / "none.png")
    with pytest.raises(ValueError, match="erased_images: .* got -1"):
        before_after(images, -torch.ones_like(images), list("abc"), tmp_path / "none.png")


def test_loss_chart(tmp_path):
    history = [{"step": 5 * i, "forget": 1 / (i + 1), "note": "text"} for i in range(9)]
    history[3]["remain"] = history[6]["remain"] = 0.1
    opened(loss_chart(history, tmp_path / "loss" / "loss.png"))
    with pytest.raises(ValueError, match="0 rows without any"):
        loss_chart([], tmp_path / "none.png")


def test_smooth():
    assert smooth([2.0, 2.0, float("nan"), float("inf"), 2.0]) == pytest.approx([2.0] * 5)
    assert smooth([1.0, 0.0], decay=0.5) == pytest.approx([1, 1 / 3])


def test_a_failed_chart_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        loss_chart([{"loss": 1.0}], tmp_path / "loss.nonsense")
    assert not [*tmp_path.iterdir()]
