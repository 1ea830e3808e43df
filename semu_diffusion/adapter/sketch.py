"""Linear sketches of gradients that are summed over batches, where the sums themselves would not fit.

Tropp, Yurtsever, Udell and Cevher, "Streaming Low-Rank Matrix Approximation with an Application to Scientific
Simulation", 2019 (arXiv 1902.08651): a range, a co-range and a core sketch. All are linear in G, so batches add up,
and so is the projection orthogonal to W, which is applied to the sketch afterwards.
"""

from __future__ import annotations

import torch

from .decompose import Basis
from .ranks import Ranks

PROBES = 16  # further rows that only measure: the energy is estimated with what the approximation never saw


class Maps:
    """The random matrices, one per side length: layers share them, so they cost little beside the sketches.

    Args:
        columns: k, the width of range and co-range; the core is (2k + 1) wide, as the paper advises.
    """

    def __init__(self, columns: int, seed: int = 0, device: torch.device | str = "cpu"):
        self.columns, self.core, self.seed, self.device = columns, 2 * columns + 1, seed, device
        self.made: dict[tuple[str, int], torch.Tensor] = {}

    def of(self, side: str, length: int, width: int) -> torch.Tensor:
        """A Gaussian matrix (length, width), the same whenever it is asked for."""
        if (side, length) not in self.made:
            generator = torch.Generator().manual_seed(2 * (self.seed * 1_000_003 + length) + (side == "left"))
            self.made[side, length] = torch.randn(length, width, generator=generator).to(self.device)
        return self.made[side, length]

    def left(self, m: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Upsilon with the probes (k + q, m) and Phi (s, m)."""
        k = self.columns + PROBES
        both = self.of("left", m, k + self.core).T
        return both[:k], both[k:]

    def right(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Omega (n, k) and Psi (n, s)."""
        both = self.of("right", n, self.columns + self.core)
        return both[:, : self.columns], both[:, self.columns :]

    def size(self, m: int, n: int) -> int:
        """Numbers in the sketch of an (m, n) matrix."""
        return (self.columns + PROBES) * n + self.columns * m + self.core**2


class Sketch:
    """X = Upsilon G (k + q, n), Y = G Omega (m, k), Z = Phi G Psi (s, s) of a sum of matrices G (m, n).

    Args:
        store: The device where the sums lie; that of the matrices, unless given.
    """

    def __init__(self, maps: Maps, m: int, n: int, store: torch.device | str | None = None):
        self.maps, self.m, self.n, self.store = maps, m, n, store
        self.parts: tuple[torch.Tensor, ...] | None = None

    def take(self, G: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """X, Y, Z of one matrix."""
        (upsilon, phi), (omega, psi) = self.maps.left(self.m), self.maps.right(self.n)
        return upsilon @ G, G @ omega, phi @ G @ psi

    def add(self, G: torch.Tensor, factor: float = 1.0) -> None:
        """Adds factor * G to the sum."""
        new = [part.to(self.store or part.device) for part in self.take(G)]
        if self.parts is None:
            self.parts = tuple(factor * part for part in new)
        else:
            for part, more in zip(self.parts, new):
                part.add_(more, alpha=factor)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Q (m, k), C (k, k), P (n, k) with G ~ Q C P^T, Q and P orthonormal (algorithm 4.2)."""
        X, Y, Z = (part.to(self.maps.device) for part in self.parts)
        Q, P = torch.linalg.qr(Y).Q, torch.linalg.qr(X[: self.maps.columns].T).Q
        phi, psi = self.maps.left(self.m)[1], self.maps.right(self.n)[1]
        C = least_squares(phi @ Q, Z)  # (k, s)
        return Q, least_squares(psi.T @ P, C.T).T, P

    def product(self) -> torch.Tensor:
        """The approximation Q C P^T (m, n) of the sum."""
        Q, C, P = self.factors()
        return Q @ C @ P.T

    def energies(self, U: torch.Tensor, S: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Estimates of ||G v||^2 for each column of V (k,) and of ||G||^2; both unbiased.

        They are those of the approximation U S V^T plus what the probes, which had no part in it, say of its error.
        """
        k, (upsilon, _) = self.maps.columns, self.maps.left(self.m)
        seen, explained = self.parts[0][k:].to(V.device).double(), (upsilon[k:] @ U * S).double()  # (q, n), (q, k)
        squares, told = S.double().square(), explained.square().sum(0)
        each = squares + ((seen @ V.double()).square().sum(0) - told) / PROBES
        total = squares.sum() + (seen.square().sum() - told.sum()) / PROBES
        return each, total.item()

    def basis(self, gamma: float, max_rank: int | None = None) -> Basis:
        """The truncated SVD at energy gamma; its energy is an estimate, below gamma where k is too small for it."""
        Q, C, P = self.factors()
        u, S, vh = torch.linalg.svd(C)
        U, V = Q @ u, P @ vh.T
        each, total = self.energies(U, S, V)
        floor = S[0] * len(S) * torch.finfo(torch.float32).eps  # what is below is rounding, not gradient
        limit = min(max_rank or len(S), int((floor < S).sum()))
        r = min(int((each.cumsum(0) < gamma * total).sum()) + 1, limit)
        energy = each[:r].sum().item() / total if total > 0 else 0.0
        return Basis(U[:, :r].contiguous(), S[:r], V[:, :r].contiguous(), min(max(energy, 0.0), 1.0))


def least_squares(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """argmin ||A X - B|| for A (s, k) of full rank, s >= k, by QR."""
    Q, R = torch.linalg.qr(A)
    return torch.linalg.solve_triangular(R, Q.T @ B, upper=True)


class Sums:
    """Gradients summed over batches, each layer's as a sketch where that is smaller than the sum itself.

    Args:
        columns: Of the sketches; None keeps all sums whole.
        store: The device where the sums lie; that of the gradients, unless given.
    """

    def __init__(self, columns: int | None, seed: int = 0, store: torch.device | str | None = None):
        self.columns, self.seed, self.store = columns, seed, store
        self.maps: dict[torch.device, Maps] = {}  # one per device; a layer's is that of its gradient
        self.sums: dict[str, torch.Tensor | Sketch] = {}
        self.along: dict[str, torch.Tensor] = {}  # <G, W>

    def begin(self, shape: tuple[int, int], device: torch.device) -> torch.Tensor | Sketch:
        """An empty sum for gradients (m, n) on a device."""
        if self.columns:
            maps = self.maps.setdefault(device, Maps(self.columns, self.seed, device))
            if 2 * maps.size(*shape) < shape[0] * shape[1]:
                return Sketch(maps, *shape, self.store)
        return torch.zeros(shape, device=self.store or device)

    def add(self, name: str, G: torch.Tensor, W: torch.Tensor) -> None:
        """Adds a batch's gradient G (m, n) of a layer with weight W (m, n)."""
        if name not in self.sums:
            self.sums[name] = self.begin(G.shape, G.device)
        if isinstance(self.sums[name], Sketch):
            self.sums[name].add(G)
            self.along[name] = self.along.get(name, 0) + (G * W).sum(dtype=torch.float64)
        else:
            self.sums[name] += G.to(self.sums[name].device)

    def add_up(self, name: str, shape: tuple[int, int], device: torch.device, ranks: Ranks) -> None:
        """Adds a layer's sum (m, n) up over all processes, of which some may have none."""
        if ranks.count == 1:
            return
        if name not in self.sums:
            self.sums[name] = self.begin(shape, device)
        found = self.sums[name]
        if not isinstance(found, Sketch):
            ranks.add(found)
            return
        if found.parts is None:
            found.add(torch.zeros(shape, device=device))
        for part in found.parts:
            ranks.add(part)
        along = torch.as_tensor(self.along.get(name, 0.0), dtype=torch.float64, device=device)
        self.along[name] = ranks.add(along)

    def projected(self, name: str, W: torch.Tensor) -> Sketch | torch.Tensor:
        """Takes a layer's sum out; a sketch is that of the part orthogonal to W, a whole sum is as it was added."""
        found = self.sums.pop(name)
        if not isinstance(found, Sketch):
            return found.to(W.device)
        norm = W.square().sum(dtype=torch.float64)
        if norm > 0:
            found.add(W, -(self.along[name] / norm).item())
        return found
