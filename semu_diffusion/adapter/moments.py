"""Second moments C of a layer's inputs: whole where that fits, else their leading part from a linear sketch.

Tropp, Yurtsever, Udell and Cevher, "Fixed-Rank Approximation of a Positive-Semidefinite Matrix from Streaming Data",
2017 (arXiv 1706.05736), algorithm 3: Nystrom's approximation from Y = C Omega.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .base_layers import device_of, full_precision, is_linear, matrix_shape, weight_shape
from .config import SemuConfig
from .decompose import gram_matrix
from .gradients import patches, show_inputs
from .model import find_layers
from .ranks import ALONE, Ranks

AT_ONCE = 2**25  # most numbers of unfolded inputs that are worked on together
WIDE = 4096  # inputs above which C is sketched: a convolution with 1280 channels has 11520, and C would take 0.5 GB
COLUMNS = 512  # of the sketch


@dataclass
class LeadingMoments:
    """C ~ P diag(values) P^T + tail I with P (n, k) orthonormal, values (k,); `size` is the mean of C's diagonal."""

    P: torch.Tensor
    values: torch.Tensor
    tail: float
    size: float

    def to(self, device: torch.device | str) -> LeadingMoments:
        """The same on a device."""
        return LeadingMoments(self.P.to(device), self.values.to(device), self.tail, self.size)

    def whiten(self, X: torch.Tensor, damping: float) -> torch.Tensor:
        """X (C + damping size I)^(-1/2) for X (k, n), by the symmetric root."""
        floor = self.tail + damping * self.size + 1e-30
        weights = (self.values.double() + floor).rsqrt() - floor**-0.5  # (k,)
        return floor**-0.5 * X + (X @ self.P * weights.float()) @ self.P.T

    def times(self, X: torch.Tensor, damping: float) -> torch.Tensor:
        """X (C + damping size I)^(1/2) for X (k, n)."""
        floor = self.tail + damping * self.size + 1e-30
        weights = (self.values.double() + floor).sqrt() - floor**0.5  # (k,)
        return floor**0.5 * X + (X @ self.P * weights.float()) @ self.P.T


OMEGAS: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # layers of one width share theirs


def random_map(n: int, device: torch.device | str, seed: int) -> torch.Tensor:
    """Gaussian Omega (n, k), the same whenever it is asked for."""
    key = (n, COLUMNS, str(device), seed)
    omega = OMEGAS.get(key)
    if omega is None:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + n)
        OMEGAS[key] = omega = torch.randn(n, COLUMNS, generator=generator).to(device)
    return omega


def squares(x: torch.Tensor) -> float:
    """||x||^2 of x (..., n): row by row in fp32, which cannot add up millions of them, and these in fp64."""
    return torch.linalg.vector_norm(x, dim=-1).double().square().sum().item()


class Moments:
    """Sums x x^T over rows x (N, n); n decides whether all of it or its product with a random Omega (n, k).

    Args:
        device: Where the rows are.
        store: Where the sum lies; there too, unless given.
    """

    def __init__(
        self, n: int, device: torch.device | str = "cpu", seed: int = 0, store: torch.device | str | None = None
    ):
        self.count, self.trace = 0, 0.0
        self.omega = random_map(n, device, seed) if n > WIDE else None
        self.sum = torch.zeros(n, n if self.omega is None else COLUMNS, device=store or device)

    def add(self, x: torch.Tensor) -> None:
        """Adds rows x (N, n)."""
        with full_precision(x.device):
            x = x.float()
            product = gram_matrix(x.T[None])[0] if self.omega is None else x.T @ (x @ self.omega)
            self.sum += product.to(self.sum.device)
        self.count += len(x)
        if self.omega is not None:
            self.trace += squares(x)

    def mean(self) -> torch.Tensor | LeadingMoments:
        """C (n, n), which takes the place of the sum, or its approximation. To be called once."""
        C = self.sum.div_(self.count)
        if self.omega is None:
            return C
        with full_precision(C.device):
            return leading(C.to(self.omega).double(), self.omega.double(), self.trace / self.count).to(C.device)


def leading(Y: torch.Tensor, omega: torch.Tensor, trace: float) -> LeadingMoments:
    """Nystrom's approximation Y (Omega^T Y)^-1 Y^T of C from Y = C Omega (n, k), both float64.

    Y comes from fp32, so it is shifted by its rounding, and the shift is taken off the values again.
    """
    n, size = len(Y), trace / len(Y)
    shift = torch.finfo(torch.float32).eps * Y.norm().item() + 1e-300
    Y = Y + shift * omega
    core = omega.T @ Y  # (k, k)
    L = torch.linalg.cholesky((core + core.T) / 2)
    E = torch.linalg.solve_triangular(L, Y.T, upper=False).T  # (n, k)
    values, w = torch.linalg.eigh(E.T @ E)
    P = E @ w / values.clamp_min(1e-300).sqrt()
    values = (values - shift).clamp_min(0)
    fine = values > 1e-6 * values.max()  # below, P is not orthogonal, and the tail stands for it as well
    P, values = P[:, fine], values[fine]
    tail = max(trace - values.sum().item(), 0.0) / max(n - len(values), 1)
    return LeadingMoments(P.float(), values.float(), tail, size)


class Root:
    """A root L of the damped second moments, C + damping * size * I = L L^T; any root does for what it is needed for.

    Worked out once for all layers that see the same inputs, on the device of their gradients.
    """

    def __init__(self, C: torch.Tensor | LeadingMoments, damping: float, device: torch.device | str | None = None):
        C = C if device is None else C.to(device)
        self.damping, self.leading = damping, C if isinstance(C, LeadingMoments) else None
        self.size = C.size if self.leading else C.diagonal().double().mean().item()
        if not self.leading:
            damped = C.to(torch.float64, copy=True)
            damped.diagonal().add_(damping * self.size + 1e-30)
            self.Lt = torch.linalg.cholesky(damped).T

    def whiten(self, G: torch.Tensor) -> torch.Tensor:
        """G L^-T (m, n)."""
        if self.leading:
            return self.leading.whiten(G, self.damping)
        return torch.linalg.solve_triangular(self.Lt, G.double(), upper=True, left=False).float()

    def back(self, V: torch.Tensor) -> torch.Tensor:
        """L^-T V (n, r)."""
        if self.leading:
            return self.leading.whiten(V.T, self.damping).T
        return torch.linalg.solve_triangular(self.Lt, V.double(), upper=True)

    def times(self, V: torch.Tensor) -> torch.Tensor:
        """L^T V (n, r)."""
        return self.leading.times(V.T, self.damping).T if self.leading else self.Lt @ V.double()

    def solve(self, B: torch.Tensor) -> torch.Tensor:
        """(C + damping size I)^-1 B (n, r)."""
        if self.leading:
            return self.back(self.leading.whiten(B.T, self.damping).T)
        return torch.cholesky_solve(B.double(), self.Lt, upper=True)


def product(C: torch.Tensor | LeadingMoments, V: torch.Tensor) -> torch.Tensor:
    """C V (n, r)."""
    if isinstance(C, LeadingMoments):
        C = C.to(V.device)
        return C.P @ (C.values[:, None] * (C.P.T @ V)) + C.tail * V
    return C.to(V.device) @ V


def mixed(parts: Sequence[tuple[float, torch.Tensor | LeadingMoments]]) -> torch.Tensor | LeadingMoments:
    """sum weight * C; of leading parts again the leading one, at most `COLUMNS` wide, and in the tail what is left."""
    (weight, total), *others = parts
    if not isinstance(total, LeadingMoments):
        return sum((w * C.to(total.device) for w, C in others), weight * total)
    total = LeadingMoments(total.P, weight * total.values, weight * total.tail, weight * total.size)
    for w, C in others:
        C = C.to(total.P.device)
        B = torch.cat([total.P * total.values.sqrt(), C.P * (w * C.values).sqrt()], 1)
        P, S, _ = torch.linalg.svd(B, full_matrices=False)
        values, tail, size = S.square(), total.tail + w * C.tail, total.size + w * C.size
        rest = values[COLUMNS:].sum().item() / max(len(P) - COLUMNS, 1)
        total = LeadingMoments(P[:, :COLUMNS], values[:COLUMNS], tail + rest, size)
    return total


# --------------------------------------------------------------------------------------------- of a model


class Watch:
    """Sums the moments of what layers are given; those that are always given the same share one sum.

    Which is so is seen from the tensors themselves: q, k and v get the very same one, and so does the text by every
    cross-attention.
    """

    def __init__(self, layers: dict[str, nn.Module], share: bool = True, on_host: bool = False):
        self.layers, self.share, self.on_host = layers, share, on_host
        self.sums: dict[str, Moments] = {}
        self.leads: dict[str, str] = {}  # layer -> whose sum is its own as well
        self.seen: dict[Hashable, tuple[weakref.ref, str]] = {}  # inputs of now, and who was given them first
        self.changed = False  # a layer shared at first and not later

    def first_given(self, name: str, x: torch.Tensor) -> str:
        """The first layer that was given this very tensor, to make the same rows of it."""
        key = (id(x), x._version, geometry(self.layers[name]))
        reference, first = self.seen.get(key, (None, name))
        if self.share and reference is not None and reference() is x:
            return first
        self.seen[key] = weakref.ref(x), name
        return name

    def hook(self, name: str) -> Callable:
        def add(layer: nn.Module, args: tuple) -> None:
            first = self.first_given(name, args[0])
            lead = self.leads.setdefault(name, first)
            if lead == name:
                self.add(name, args[0].detach())
            self.changed |= lead not in (name, first)

        return add

    def sum_of(self, name: str, device: torch.device) -> Moments:
        """A layer's sum, begun where there is none yet."""
        if name not in self.sums:
            _, n = matrix_shape(self.layers[name])
            self.sums[name] = Moments(n, device, store="cpu" if self.on_host else None)
        return self.sums[name]

    def add(self, name: str, x: torch.Tensor) -> None:
        """Adds a layer's input."""
        layer, total = self.layers[name], self.sum_of(name, x.device)
        overlap = matrix_shape(layer)[1] // weight_shape(layer)[1]  # unfolding makes so many copies of the input
        for part in x.split(max(1, AT_ONCE // (x[0].numel() * overlap))):
            total.add(patches(layer, part))

    def add_up(self, ranks: Ranks) -> None:
        """Adds the sums of all processes up, each of which has seen its share of the inputs, or none."""
        if ranks.count == 1:
            return
        found = ranks.each((self.leads, self.changed))
        self.leads = {name: lead for own, _ in found for name, lead in own.items()}
        self.changed = any(changed or any(self.leads[k] != lead for k, lead in own.items()) for own, changed in found)
        if self.changed:
            return
        leading = [name for name in self.layers if self.leads.get(name) == name]
        totals = [self.sum_of(name, device_of(self.layers[name])) for name in leading]
        counts = ranks.add(torch.tensor([[t.count, t.trace] for t in totals], dtype=torch.float64)).tolist()
        for total, (count, trace) in zip(totals, counts, strict=True):
            ranks.add(total.sum)
            total.count, total.trace = int(count), trace

    def means(self) -> dict[str, torch.Tensor | LeadingMoments]:
        """The means by layer, the same one for those that share."""
        means = {name: self.sums.pop(name).mean() for name in list(self.sums)}
        return {name: means[lead] for name, lead in self.leads.items()}


def geometry(layer: nn.Module) -> Hashable:
    """What decides which rows a layer makes of its input."""
    if is_linear(layer):
        return layer.in_features
    return layer.kernel_size, layer.stride, str(layer.padding), layer.padding_mode, layer.dilation, layer.groups


def second_moments(
    model: nn.Module,
    config: SemuConfig,
    forward: Callable[[], object],
    share: bool = True,
    on_host: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, torch.Tensor | LeadingMoments]:
    """Mean of x x^T (n, n) over all inputs that each targeted layer sees while `forward` runs.

    For layers with more than `WIDE` inputs its leading part. Layers that are given the same have one and the same.

    Args:
        share: False sums for each layer by itself.
        on_host: Keeps the sums in the CPU's memory.
        ranks: The processes whose `forward`s together are what is to be seen; all get the same moments.
    """
    watch = Watch(find_layers(model, config), share, on_host)
    show_inputs(model, {layer: watch.hook(name) for name, layer in watch.layers.items()}, forward)
    watch.add_up(ranks)
    return second_moments(model, config, forward, False, on_host, ranks) if watch.changed else watch.means()
