"""What unlearning a classifier is judged by: accuracies, their distance to Retrain, and the KL divergence to it."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from .concept import ConceptAccuracy, _check
from .mean import MeanOver
from .membership import svc_mia, true_confidence

GAP = ("UA", "RA", "TA", "MIA")  # what the average gap is over


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in %, from logits (N, C) and labels (N,)."""
    metric = ConceptAccuracy(logits.shape[1])
    metric.update(logits, labels)
    return 100 * metric.compute()["accuracy"].item()


def unlearning_report(
    forget: tuple[Tensor, Tensor], retain: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """{"UA", "RA", "TA", "MIA"} in %, from (logits (N, C), labels (N,)) of each set.

    UA = 100 - accuracy on the forget set, RA and TA the accuracies on the retain and the test set (without the
    forgotten classes, where whole ones are), MIA = `svc_mia`. The definitions of SalUn, arXiv 2310.12508.

    Raises:
        ValueError: logits with NaN or of another shape than the labels, or an empty set.
    """
    confidences = [true_confidence(*part) for part in (retain, test, forget)]
    return {
        "UA": 100 - accuracy(*forget),
        "RA": accuracy(*retain),
        "TA": accuracy(*test),
        "MIA": svc_mia(*confidences),
    }


def average_gap(report: dict[str, float], retrain: dict[str, float]) -> float:
    """Mean over UA, RA, TA and MIA of |report - retrain|, in points: 0 for Retrain itself."""
    return sum(abs(report[key] - retrain[key]) for key in GAP) / len(GAP)


def mean_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and the half width of Student's confidence interval; infinite for a single seed."""
    if len(values) < 2:
        return values[0], math.inf
    from scipy.stats import t

    error = statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), error * t.ppf((1 + level) / 2, len(values) - 1).item()


def _retrain_kl_update(logits: Tensor, retrain: Tensor) -> Tensor:
    """KL(softmax(retrain) || softmax(logits)) of each row in nats, fp64 (B,)."""
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    _check(logits, labels, retrain.shape[-1])
    _check(retrain, labels, logits.shape[-1])
    q, p = logits.double().log_softmax(1), retrain.double().log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


class RetrainKL(MeanOver):
    """KL(Retrain || model) in nats, mean over examples; 0 where the model answers just as Retrain.

    `update` takes the model's logits and Retrain's, (B, C) each. SFR-on's D_KL on the forget set, arXiv 2409.19732.

    Raises:
        ValueError: from `update`, for other shapes, types, or NaN; says what was received.

    >>> metric = RetrainKL()
    >>> metric.update(torch.zeros(2, 3), torch.zeros(2, 3))
    >>> metric.compute()
    tensor(0., dtype=torch.float64)
    """

    higher_is_better = False

    def update(self, logits: Tensor, retrain: Tensor) -> None:
        """Add a batch: logits (B, C) of the model and of Retrain."""
        self.add(_retrain_kl_update(logits, retrain))
