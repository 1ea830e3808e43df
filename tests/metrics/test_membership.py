"""Membership attacks and unlearning metrics against hand counts and scikit-learn used by hand."""

import copy
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from semu_diffusion.metrics.membership import auc, rmia, svc_mia, tpr_at, true_confidence
from semu_diffusion.metrics.unlearning import RetrainKL, accuracy, average_gap, mean_interval, unlearning_report


def sample(n: int, low: float, seed: int) -> torch.Tensor:
    """n confidences in (low, 1)."""
    return low + (1 - low) * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits_for(predicted: list[int], classes: int = 3, height: float = 4.0) -> torch.Tensor:
    return height * torch.nn.functional.one_hot(torch.tensor(predicted), classes).float()


def test_confidence_of_the_true_label():
    logits, labels = torch.tensor([[0.0, math.log(3)], [1.0, 1.0]]), torch.tensor([1, 0])
    assert true_confidence(logits, labels).tolist() == pytest.approx([0.75, 0.5])


# --- SalUn's SVC -------------------------------------------------------------------------------------------------


def test_svc_mia_is_what_scikit_learn_gives_by_hand():
    from sklearn.svm import SVC

    retain, test, forget = sample(300, 0.6, 1), sample(100, 0.2, 2), sample(57, 0.4, 3)
    x = np.concatenate([retain[:100].numpy(), test.numpy()]).reshape(-1, 1)  # as many members as there are in test
    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(x, np.concatenate([np.ones(100), np.zeros(100)]))
    judged = svc.predict(forget.numpy().reshape(-1, 1))
    assert 0 < judged.mean() < 1
    assert svc_mia(retain, test, forget) == pytest.approx(100 * (judged == 0).mean())


def test_svc_mia_takes_members_from_the_front_and_no_more_than_test_has():
    retain, test, forget = sample(300, 0.6, 1), sample(100, 0.2, 2), sample(57, 0.4, 3)
    assert svc_mia(torch.cat([retain[:100], sample(50, 0, 9)]), test, forget) == svc_mia(retain, test, forget)
    assert svc_mia(retain[:30], test, forget) != svc_mia(retain, test, forget)


def test_svc_mia_of_the_clear_cases():
    members, others = 0.99 + sample(80, 0, 1) / 100, sample(80, 0, 2) / 2
    assert svc_mia(members, others, members[:20]) == 0
    assert svc_mia(members, others, others[:20]) == 100


@pytest.mark.parametrize("bad", [torch.empty(0), torch.tensor([0.5, float("nan")])])
def test_attacks_refuse_bad_samples(bad):
    good = sample(5, 0, 1)
    with pytest.raises(ValueError, match="test: expected one or more finite numbers"):
        svc_mia(good, bad, good)
    with pytest.raises(ValueError, match="members: expected"):
        auc(bad, good)


def test_svc_mia_names_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(ValueError, match=r"semu-diffusion\[classify\]"):
        svc_mia(sample(5, 0, 1), sample(5, 0, 2), sample(5, 0, 3))


# --- RMIA --------------------------------------------------------------------------------------------------------


def rmia_by_hand(x, x_reference, z, z_reference, gamma):
    scores = []
    for i in range(len(x)):
        ratio = x[i] / x_reference[:, i].mean()
        scores.append(np.mean([ratio / (z[j] / z_reference[:, j].mean()) >= gamma for j in range(len(z))]))
    return scores


@pytest.mark.parametrize("gamma", [1.0, 1.3, 2.0])
def test_rmia_against_a_double_loop(gamma):
    x, z = sample(20, 0, 1), sample(30, 0, 2)
    xr, zr = sample(40, 0.1, 3).reshape(2, 20), sample(60, 0.1, 4).reshape(2, 30)
    assert rmia(x, xr, z, zr, gamma).tolist() == pytest.approx(rmia_by_hand(x, xr, z, zr, gamma))


def test_rmia_offline_scales_the_references():
    x, z, xr, zr = sample(9, 0, 1), sample(8, 0, 2), sample(9, 0.1, 3)[None], sample(8, 0.1, 4)[None]
    scaled = [(1.3 * q + 0.7) / 2 for q in (xr, zr)]
    assert torch.equal(rmia(x, xr, z, zr, offline=0.3), rmia(x, scaled[0], z, scaled[1]))


def test_rmia_finds_members_that_confidence_alone_hides():
    """Easy non-members are as confident as hard members; what the references think tells them apart."""
    hardness = sample(200, 0.1, 1)
    members, others = (1.0 + 0.5 * sample(100, 0, 2)) * hardness[:100] / 1.5, hardness[100:] / 1.5
    references = hardness[None] / 1.5
    z, zr = others, references[:, 100:]
    scores = rmia(members, references[:, :100], z, zr, 1.1), rmia(others, references[:, 100:], z, zr, 1.1)
    assert auc(*scores) > 80 > 70 > auc(members, others)


def test_rmia_refuses_references_of_another_shape():
    with pytest.raises(ValueError, match=r"references: expected \(K, 5\) and \(K, 4\)"):
        rmia(sample(5, 0, 1), sample(4, 0, 2)[None], sample(4, 0, 3), sample(4, 0, 4)[None])


def test_auc_is_mann_whitney_with_ties_as_half():
    members, others = torch.tensor([0.2, 0.5, 0.5, 0.9]), torch.tensor([0.1, 0.5, 0.7])
    expected = mannwhitneyu(members.numpy(), others.numpy()).statistic / 12
    assert auc(members, others) == pytest.approx(100 * expected)
    assert auc(members, members) == 50


def test_tpr_at_an_fpr():
    others = torch.arange(100.0)
    assert tpr_at(torch.tensor([98.5, 99.5, 10.0, 98.0]), others, 0.01) == 50  # one of the others is above 98
    assert tpr_at(torch.tensor([99.0, 100.0]), others, 0.0) == 50


# --- accuracies, gap, KL -----------------------------------------------------------------------------------------


def test_report_by_hand():
    forget = logits_for([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1])  # 2 of 4 right
    retain = logits_for([0, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 2, 0])  # 4 of 5
    test = logits_for([0, 1, 2, 1]), torch.tensor([0, 1, 2, 0])  # 3 of 4
    report = unlearning_report(forget, retain, test)
    assert {k: report[k] for k in ("UA", "RA", "TA")} == pytest.approx({"UA": 50, "RA": 80, "TA": 75})
    parts = [true_confidence(*p) for p in (retain, test, forget)]
    assert report["MIA"] == svc_mia(*parts) and list(report) == ["UA", "RA", "TA", "MIA"]
    retrain = {"UA": 52.0, "RA": 80.0, "TA": 71.0, "MIA": report["MIA"] + 6}
    assert average_gap(report, retrain) == pytest.approx((2 + 0 + 4 + 6) / 4)
    assert average_gap(report, report) == 0


def test_accuracy_refuses_nan_and_labels_out_of_range():
    with pytest.raises(ValueError, match="NaN"):
        accuracy(torch.full((2, 3), float("nan")), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="expected 0..2, got 0..3"):
        accuracy(torch.zeros(2, 3), torch.tensor([0, 3]))


def test_kl_by_hand_and_in_parts():
    p, q = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), torch.tensor([[0.2, 0.4, 0.4], [0.1, 0.8, 0.1]])
    metric = RetrainKL()
    for row in range(2):  # q judged against Retrain's p; a shift of the logits changes nothing
        metric.update(q[row : row + 1].log() + 3, p[row : row + 1].log() - 1)
    expected = (0.5 * math.log(0.5 / 0.2) + 2 * 0.25 * math.log(0.25 / 0.4)) / 2
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert twin.compute() == metric.compute()
    with pytest.raises(ValueError, match="expected floats"):
        RetrainKL().update(torch.zeros(2, 3), torch.zeros(2, 4))


def test_mean_interval_is_students():
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)  # t of 2 degrees of freedom
    assert mean_interval([5.0]) == (5.0, math.inf)
