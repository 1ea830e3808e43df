"""Membership inference: who was in the training data, told from the model's confidence. Needs the extra `classify`."""

from __future__ import annotations

import torch
from torch import Tensor


def true_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the true label, fp64 (N,), from logits (N, C) and labels (N,)."""
    return logits.double().softmax(1).gather(1, labels[:, None]).squeeze(1)


def _check(**samples: Tensor) -> None:
    for name, values in samples.items():
        if not values.numel() or not values.isfinite().all():
            raise ValueError(f"{name}: expected one or more finite numbers, got {tuple(values.shape)}")


def svc_mia(retain: Tensor, test: Tensor, forget: Tensor) -> float:
    """The MIA column of SalUn: % of the forget set that an SVC takes for non-members. Close to Retrain's is good.

    An RBF SVC (C = 3, gamma = 1) on one feature, the probability of the true label, learns to tell members, the
    first len(test) of the retain set, from non-members, all of the test set; it then judges the forget set.
    Source: SalUn, arXiv 2310.12508, "forget efficacy, confidence" of its evaluation.

    Args:
        retain, test, forget: `true_confidence` of each set, (N,) each; the retain set in its own order.

    Raises:
        ValueError: an empty set or a value that is not finite; scikit-learn is not installed.
    """
    _check(retain=retain, test=test, forget=forget)
    try:
        from sklearn.svm import SVC
    except ImportError:
        raise ValueError("the SVC attack needs scikit-learn: pip install 'semu-diffusion[classify]'") from None
    members = retain[: len(test)]
    x = torch.cat([members, test])[:, None].cpu().numpy()  # (M + N, 1)
    y = [1] * len(members) + [0] * len(test)
    svc = SVC(C=3, gamma="auto", kernel="rbf").fit(x, y)
    return 100 * (1 - svc.predict(forget[:, None].cpu().numpy()).mean()).item()


def rmia(
    x: Tensor, x_reference: Tensor, z: Tensor, z_reference: Tensor, gamma: float = 2.0, offline: float | None = None
) -> Tensor:
    """Robust membership scores (N,) in [0, 1]: the share of z with (p(x) / q(x)) / (p(z) / q(z)) >= gamma.

    p is the attacked model's probability of the true label and q its mean over reference models. Those are best
    trained in complementary pairs on random halves of everything that is judged, so that each example is in exactly
    half of them; with references that never saw x, `offline` = a turns their mean into ((1 + a) q + 1 - a) / 2.
    Source: RMIA, Zarifzadeh et al. 2024, arXiv 2312.03262, algorithm 1.

    Args:
        x: p of what is judged, (N,).
        x_reference: The same by K reference models, (K, N).
        z, z_reference: The same of a population of non-members, (M,) and (K, M).

    Raises:
        ValueError: an empty sample, a value that is not finite, or another number of references for x and z.
    """
    _check(x=x, x_reference=x_reference, z=z, z_reference=z_reference)
    if x_reference.shape != (len(z_reference), len(x)) or z_reference.shape[1:] != z.shape:
        raise ValueError(
            f"references: expected (K, {len(x)}) and (K, {len(z)}), "
            f"got {tuple(x_reference.shape)} and {tuple(z_reference.shape)}"
        )

    def ratio(p: Tensor, references: Tensor) -> Tensor:
        q = references.double().mean(0)
        q = q if offline is None else ((1 + offline) * q + 1 - offline) / 2
        return p.double() / q.clamp_min(1e-30)

    beaten = ratio(z, z_reference).sort().values  # (M,)
    return torch.searchsorted(beaten, ratio(x, x_reference) / gamma, right=True) / len(z)


def auc(members: Tensor, others: Tensor) -> float:
    """% of pairs in which the member's score is the higher one, ties counting half; 50 is a guess."""
    _check(members=members, others=others)
    below = torch.searchsorted(others.sort().values, members)
    reached = torch.searchsorted(others.sort().values, members, right=True)
    return 100 * ((below + reached).double().mean() / 2 / len(others)).item()


def tpr_at(members: Tensor, others: Tensor, fpr: float = 0.01) -> float:
    """% of members above the score that at most a share `fpr` of the others exceeds."""
    _check(members=members, others=others)
    highest = others.sort(descending=True).values
    threshold = highest[min(int(fpr * len(others)), len(others) - 1)]
    return 100 * (members > threshold).double().mean().item()
