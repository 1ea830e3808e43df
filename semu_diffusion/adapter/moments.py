"""Second moments C of a layer's inputs: whole where that fits, else their leading part from a linear sketch.

Tropp, Yurtsever, Udell and Cevher, "Fixed-Rank Approximation of a Positive-Semidefinite Matrix from Streaming Data",
2017 (arXiv 1706.05736), algorithm 3: Nystrom's approximation from Y = C Omega.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

WIDE = 4096  # inputs above which C is sketched: a convolution with 1280 channels has 11520, and C would take 0.5 GB
COLUMNS = 512  # of the sketch


@dataclass
class LeadingMoments:
    """C ~ P diag(values) P^T + tail I with P (n, k) orthonormal, values (k,); `size` is the mean of C's diagonal."""

    P: torch.Tensor
    values: torch.Tensor
    tail: float
    size: float

    def whiten(self, X: torch.Tensor, damping: float) -> torch.Tensor:
        """X (C + damping size I)^(-1/2) for X (k, n), by the symmetric root."""
        floor = self.tail + damping * self.size + 1e-30
        weights = (self.values.double() + floor).rsqrt() - floor**-0.5  # (k,)
        return floor**-0.5 * X + (X @ self.P * weights.float()) @ self.P.T


class Moments:
    """Sums x x^T over rows x (N, n); n decides whether all of it or its product with a random Omega (n, k)."""

    def __init__(self, n: int, device: torch.device | str = "cpu", seed: int = 0):
        self.count, self.trace, self.omega = 0, 0.0, None
        if n > WIDE:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + n)
            self.omega = torch.randn(n, COLUMNS, generator=generator).to(device)
        self.sum = torch.zeros(n, n if self.omega is None else COLUMNS, device=device)

    def add(self, x: torch.Tensor) -> None:
        """Adds rows x (N, n)."""
        self.sum += x.T @ (x if self.omega is None else x @ self.omega)
        self.count += len(x)
        self.trace += x.square().sum(dtype=torch.float64).item()

    def mean(self) -> torch.Tensor | LeadingMoments:
        """C (n, n), or its approximation."""
        if self.omega is None:
            return self.sum / self.count
        return leading(self.sum.double() / self.count, self.omega.double(), self.trace / self.count)


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
