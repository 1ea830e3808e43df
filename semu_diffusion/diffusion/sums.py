"""Bytes of what an erasure sums over its records, second moments and gradients, and of the work on these sums."""

from __future__ import annotations

import torch

from ..adapter.decompose import MOST, most_columns
from ..adapter.moments import AT_ONCE, COLUMNS, WIDE
from ..adapter.sketch import Maps
from ..adapter.subspace import at_once
from .config import EraseConfig
from .footprint import Footprint, Given

Shape = tuple[int, int]  # (m, n) of a layer's weight


# ---------------------------------------------------------------------------------------------- moments


def moment_bytes(n: int) -> int:
    """Of the second moments of n inputs, or of their product with a random map where they are too many."""
    return 4 * n * (COLUMNS if n > WIDE else n)


def moment_sums(config: EraseConfig, inputs: list[Given]) -> int:
    """Of the second moments of all inputs, each once."""
    return sum(moment_bytes(x.n) for x in inputs) * (config.geometry == "remain")


def map_bytes(inputs: list[Given]) -> int:
    """Of the random maps, one for each width; they are where the records are, wherever the sums lie."""
    return sum(4 * n * COLUMNS for n in {x.n for x in inputs if x.n > WIDE})


def adding(x: Given, width: int, records: int) -> int:
    """Of adding so many records to an input's moments: its rows in fp32, where they are not there already, beside what
    they are copied from or beside their product.

    Args:
        width: Bytes of a number in the activations.
    """
    numbers = max(x.rows * x.n, min(x.rows * x.n * records, AT_ONCE))
    product = moment_bytes(x.n) + (4 * numbers // x.n * COLUMNS if x.n > WIDE else 0)
    copied = 4 * numbers * (x.unfolded or width < 4)
    return copied + max((4 if x.unfolded else 0) * numbers, product)


def summing(foot: Footprint, records: int) -> float:
    """Of a forward pass of so many records that are added to the moments on the way."""
    most = max((x.alive(records) + adding(x, foot.width, records) for x in foot.inputs), default=0)
    return max(foot.forward(records), most) + map_bytes(foot.inputs)


def closing(inputs: list[Given]) -> int:
    """Of finding the leading part of the widest inputs' moments: five matrices (n, COLUMNS) in fp64."""
    return 5 * 8 * COLUMNS * max((x.n for x in inputs if x.n > WIDE), default=0)


# -------------------------------------------------------------------------------------------- gradients


def gradient_sums(config: EraseConfig, shapes: list[Shape]) -> int:
    """Of the summed gradients of all layers, whole or sketched."""
    if not config.sketch:
        return 4 * sum(m * n for m, n in shapes)
    maps = Maps(config.sketch)
    sides = {("left", m) for m, _ in shapes} | {("right", n) for _, n in shapes}
    random = sum(length * 3 * config.sketch for _, length in sides)
    sketched = [maps.size(m, n) if 2 * maps.size(m, n) < m * n else m * n for m, n in shapes]
    return 4 * (sum(sketched) + random)


# ------------------------------------------------------------------------------------------------ bases


def factorising(shape: Shape, max_rank: int) -> int:
    """Of the truncated SVD of one matrix, beside itself: the smaller side's Gram matrix with its eigenvectors and
    their workspace, or a Krylov space with its products."""
    k = min(shape)
    return 20 * k * k + 4 * 3 * most_columns(k, max_rank) * sum(shape)


def whitening(m: int, n: int) -> tuple[int, int, int]:
    """Of a root of n inputs' moments: while it is made, from then on, and of the gradient (m, n) brought through it."""
    if n > WIDE:
        return 0, 0, 12 * m * n + 4 * m * COLUMNS
    return 16 * n * n, 8 * n * n, 16 * m * n  # fp64: C and its root; G and G L^-T


def basis_bytes(config: EraseConfig, foot: Footprint, shape: Shape) -> int:
    """Of working out one layer's basis, beside its gradient."""
    m, n = shape
    stored = 4 * m * n * (foot.width < 4)  # W in fp32, where that is a copy
    if config.geometry == "euclidean":
        return stored + 4 * m * n + factorising(shape, config.max_rank)
    making, root, through = whitening(m, n)
    return max(making, root + stored + max(through, 4 * m * n + factorising(shape, config.max_rank)))


def stacked(config: EraseConfig, foot: Footprint, shape: Shape) -> int:
    """`basis_bytes` of as many layers of one shape as are worked on together without moments and sketches."""
    alike = foot.shapes.count(shape)
    return min(alike, at_once(torch.Size(shape), foot.device)) * basis_bytes(config, foot, shape)


def basis_peak(config: EraseConfig, foot: Footprint, summed_here: bool) -> int:
    """Of all bases at the worst moment: the largest gradients first, each freed as its basis takes its place.

    Args:
        summed_here: The gradients lie whole on the device; else there are only `foot`'s layers one by one.
    """
    shapes = sorted(foot.shapes, key=lambda s: -s[0] * s[1])
    many = summed_here and config.geometry == "euclidean"
    work = [(stacked if many else basis_bytes)(config, foot, shape) for shape in shapes]
    together = min(torch.get_num_threads(), MOST) if summed_here and foot.device.type == "cpu" else 1
    left, made, peak = (gradient_sums(config, shapes) if summed_here else 0), 0, 0
    for k, (m, n) in enumerate(shapes):
        own = 0 if summed_here else 4 * m * n
        peak = max(peak, left + made + own + sum(work[k : k + together]))
        left, made = left - 4 * m * n * summed_here, made + 4 * (m + n) * min(config.max_rank, m, n)
    return peak
