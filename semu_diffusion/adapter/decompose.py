"""Leading singular directions of a gradient at the price of what is needed of them.

Three ways, all over a stack (L, m, n) of layers of one shape and on the device where it lies:

- exact: `torch.linalg.svd`;
- gram: eigenvectors of the smaller side's Gram matrix, in fp32 where that resolves enough, else in fp64;
- randomized: a block Krylov space from a random start (Musco and Musco, arXiv 1504.05477), grown until the energy of
  the wanted directions stands still. The plain randomised SVD (Halko et al., arXiv 0909.4061) is its first block; on
  flat spectra, where one power step gives 85 % of the exact energy, the Krylov space reaches 99.8 % for the same price.

The quick ways are checked (orthogonality of U and V, energy gained by the last blocks); what fails is done again by
the next more careful one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

METHODS = ("auto", "exact", "gram", "randomized")
BLOCK = 16  # columns by which the Krylov space grows
GAIN = 1e-2  # it is done where its last blocks brought less than this share of the energy; a third of it is missing
SKEW = 1e-3  # most |U^T U - I| and |V^T V - I|
FINE = 1e-3  # 1 - gamma below which fp32 Gram matrices resolve too little: their rounding is about 1e-4 of the energy


@dataclass
class Basis:
    """U (m, r), S (r,) and V (n, r) of a layer's gradient, and the share of its energy that they keep."""

    U: torch.Tensor
    S: torch.Tensor
    V: torch.Tensor
    energy: float = 1.0

    @property
    def rank(self) -> int:
        return self.S.numel()


def choose_rank(S: torch.Tensor, gamma: float, max_rank: int | None = None, total: float | None = None) -> int:
    """The smallest r whose energy, sum of the first r squared singular values over all of them, is >= gamma.

    0 for a zero gradient, else at least 1 and at most max_rank. `total` is the energy of all where S is not all.
    """
    if S.numel() == 0 or not S[0] > 0:
        return 0
    S = S[S[0] * S.numel() * torch.finfo(torch.float32).eps < S]  # the rest is rounding, not gradient
    energy = S.double().square().cumsum(0)
    r = int((energy < gamma * (energy[-1] if total is None else total)).sum()) + 1
    return min(r, max_rank or r, S.numel())


def choose_method(m: int, n: int, max_rank: int | None) -> str:
    """The cheapest way for (m, n), m <= n, by floating point operations; an eigenproblem runs at a third of the speed.

    Without a limit to the rank the number of directions is not known before, and the Gram matrix gives all of them.
    """
    if m <= 64:
        return "exact"
    if max_rank is None or 4 * max_rank > m:
        return "gram"
    k = min(8 * max_rank, most_columns(m, max_rank))
    krylov, gram = 4 * m * n * k + 4 * m * k**2 + 30 * k**3, 2 * m**2 * n + 30 * m**3
    return "randomized" if krylov < gram else "gram"


def most_columns(m: int, max_rank: int | None) -> int:
    """Where the Krylov space stops to grow, done or not."""
    return min(12 * (max_rank or m), 3 * m // 4)


@torch.no_grad()
def decompose(G: torch.Tensor, gamma: float, max_rank: int | None = None, method: str = "auto") -> list[Basis]:
    """Truncated SVD of each gradient in a stack (L, m, n), fp32: the smallest rank whose energy is >= gamma.

    The energy is that which the basis itself keeps. The randomised way's is at most about 0.3 % below the best of its
    rank; where gamma falls into that difference its rank is one higher than the exact one.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if G.device.type == "mps":  # no float64 and no eigh there
        return [basis_to(basis, G.device) for basis in decompose(G.cpu(), gamma, max_rank, method)]
    if G.shape[1] > G.shape[2]:
        return [Basis(b.V, b.S, b.U, b.energy) for b in decompose(G.mT, gamma, max_rank, method)]
    method = choose_method(*G.shape[1:], max_rank) if method == "auto" else method
    size = G.abs().amax((1, 2), keepdim=True).float()  # squares of tiny numbers would underflow
    A = G.float() / torch.where(size > 0, size, 1)
    found: list[Basis | None] = [None] * len(A)
    for way in {"randomized": (krylov, gram, gram64), "gram": (gram, gram64), "exact": ()}[method]:
        left = [k for k, basis in enumerate(found) if basis is None]
        if left and not (way is gram and 1 - gamma < FINE):
            part = A if len(left) == len(A) else A[left]
            for k, basis in zip(left, way(part, gamma, max_rank)):
                found[k] = basis
    left = [k for k, basis in enumerate(found) if basis is None]
    for k, basis in zip(left, exact(A[left], gamma, max_rank) if left else []):
        found[k] = basis
    for basis, s in zip(found, size.flatten()):
        basis.S = basis.S * s
    return found


def basis_to(basis: Basis, device: torch.device | str) -> Basis:
    """The basis on a device."""
    return Basis(basis.U.to(device), basis.S.to(device), basis.V.to(device), basis.energy)


def exact(A: torch.Tensor, gamma: float, max_rank: int | None) -> list[Basis]:
    """By LAPACK's or cuSOLVER's SVD."""
    bases = []
    for U, S, Vh in zip(*torch.linalg.svd(A, full_matrices=False)):
        r = choose_rank(S, gamma, max_rank)
        energy = (S[:r].square().sum() / S.square().sum().clamp_min(1e-45)).item()
        bases.append(Basis(U[:, :r].contiguous(), S[:r].contiguous(), Vh[:r].T.contiguous(), energy))
    return bases


def gram(A: torch.Tensor, gamma: float, max_rank: int | None, dtype: torch.dtype = torch.float32) -> list[Basis | None]:
    """By A A^T = U S^2 U^T and V = A^T U / S; None where V is not orthogonal enough, S_r being too small for that."""
    B = A.to(dtype)
    values, U = torch.linalg.eigh(B @ B.mT)  # ascending
    S, U = values.flip(-1).clamp_min(0).sqrt(), U.flip(-1)
    ranks = [choose_rank(s, gamma, max_rank) for s in S]
    totals = A.square().sum((1, 2), dtype=torch.float64).tolist()
    return [finish(u[:, :r], b.T @ u[:, :r], total) for b, u, r, total in zip(B, U, ranks, totals)]


def gram64(A: torch.Tensor, gamma: float, max_rank: int | None) -> list[Basis | None]:
    """`gram` in double precision, which resolves directions down to 1e-5 of the first."""
    return gram(A, gamma, max_rank, torch.float64)


def finish(U: torch.Tensor, VS: torch.Tensor, total: float) -> Basis | None:
    """The basis of orthonormal U (m, r) and VS = A^T U (n, r); None where either is not what it should be."""
    S = VS.norm(dim=0)  # (r,)
    V = VS / S
    eye = torch.eye(len(S), dtype=U.dtype, device=U.device)
    if len(S) and max((V.T @ V - eye).abs().max(), (U.T @ U - eye).abs().max()) > SKEW:
        return None
    energy = min(S.double().square().sum().item() / total, 1.0) if total > 0 else 0.0
    return Basis(U.float().contiguous(), S.float(), V.float().contiguous(), energy)


def krylov(A: torch.Tensor, gamma: float, max_rank: int | None, seed: int = 0) -> list[Basis | None]:
    """In the span Q of A Omega, (A A^T) A Omega, ...: the eigenvectors of T = Q^T A A^T Q, which is block tridiagonal.

    None where the limit of columns is reached before the energy of the wanted directions stands still.
    """
    limit, totals = most_columns(A.shape[1], max_rank), A.square().sum((1, 2), dtype=torch.float64).tolist()
    b = min(BLOCK, limit)
    omega = torch.randn(A.shape[2], b, generator=torch.Generator().manual_seed(seed)).to(A.device)
    Q = torch.linalg.qr(A @ omega).Q  # (L, m, k)
    Z = [A.mT @ Q]  # A^T Q in blocks (L, n, b)
    T = Z[0].mT @ Z[0]  # (L, k, k)
    before, ranks = None, None
    while True:
        k = Q.shape[2]
        if k in (b, 2 * b, 4 * b) or k % (4 * b) == 0 or k + b > limit:
            values = torch.linalg.eigvalsh(T.double()).flip(-1).clamp_min(0)  # (L, k)
            ranks = settled(values, before, totals, gamma, max_rank)
            before = values
        if None not in ranks or k + b > limit:
            break
        Y = A @ Z[-1]
        for _ in range(2):  # twice is enough (Kahan); the second round also cleans what fills up a deficient block
            Y = torch.linalg.qr(Y - Q @ (Q.mT @ Y)).Q
        Z.append(A.mT @ Y)
        Q, T = torch.cat([Q, Y], 2), F.pad(T, (0, b, 0, b))
        T[:, k:, k:], T[:, k - b : k, k:] = Z[-1].mT @ Z[-1], Z[-2].mT @ Z[-1]
        T[:, k:, k - b : k] = T[:, k - b : k, k:].mT
    w = torch.linalg.eigh(T.double()).eigenvectors.flip(-1).float()  # (L, k, k)
    AQ = torch.cat(Z, 2)
    return [r if r is None else finish(Q[i] @ w[i, :, :r], AQ[i] @ w[i, :, :r], totals[i]) for i, r in enumerate(ranks)]


def settled(
    values: torch.Tensor, before: torch.Tensor | None, totals: list[float], gamma: float, max_rank: int | None
) -> list[int | None]:
    """The rank of each layer from its Ritz values (L, k), or None where more columns may still bring energy."""
    ranks: list[int | None] = []
    for i, (lam, total) in enumerate(zip(values, totals)):
        found = lam.sum().item()
        whole = found >= (1 - 1e-6) * total  # the space holds all of the gradient
        r = choose_rank(lam.sqrt(), gamma, max_rank, min(found, total) if whole else total)
        reached = whole or r == max_rank or lam[:r].sum() >= gamma * total
        if not whole and before is not None and reached:
            gain = 1 - before[i, :r].sum() / lam[:r].sum()
            reached = before.shape[1] >= r and gain.item() < GAIN
        ranks.append(r if whole or (reached and before is not None) else None)
    return ranks
