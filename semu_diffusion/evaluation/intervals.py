"""Intervals of figures: Wilson's for shares, the bootstrap for means and sums over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import torch

RESAMPLES = 1000
AT_ONCE = 100  # of them; all at once would take gigabytes for as many pictures as FID wants
INTERVALS = "95 %: Wilson for shares, bootstrap over pictures for means and sums"


def wilson(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, in [0, 1] (Wilson 1927); unlike +- z sigma, it holds near 0 and 1.

    >>> "%.4f %.4f" % wilson(0, 10)
    '0.0000 0.2775'
    """
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"expected 0 <= hits <= total and total > 0, got {hits} of {total}")
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), hits / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * (p * (1 - p) / total + z**2 / (4 * total**2)) ** 0.5
    # At 0 and n hits an end is exactly 0 or 1; rounding may miss that by an ulp.
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == total else centre + half)


def bootstrap(values: Sequence[float], total: bool = False, confidence: float = 0.95) -> list[float] | None:
    """Percentile interval of the mean (or the sum) of one number per picture, over 1000 resamples; None without any.

    The resamples are the same each time, so equal values give equal intervals. Source: Efron 1979.
    """
    if not len(values):
        return None
    x, generator = torch.tensor(values, dtype=torch.float64), torch.Generator().manual_seed(0)
    parts = (torch.randint(len(x), (AT_ONCE, len(x)), generator=generator) for _ in range(RESAMPLES // AT_ONCE))
    means = torch.cat([x[picks].mean(1) for picks in parts])
    ends = torch.quantile(means, torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64))
    return (ends * (len(x) if total else 1)).tolist()
