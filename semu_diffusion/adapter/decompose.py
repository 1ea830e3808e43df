"""Leading singular directions of a gradient at the price of what is needed of them.

Three ways, all over a stack (L, m, n) of layers of one shape and on the device where it lies:

- exact: `torch.linalg.svd`;
- gram: eigenvectors of the smaller side's Gram matrix, in fp32 where that resolves enough, else in fp64;
- randomized: a block Krylov space from a random start (Musco and Musco, arXiv 1504.05477), grown until the energy of
  the wanted directions stands still. The plain randomised SVD (Halko et al., arXiv 0909.4061) is its first block; on
  flat spectra, where one power step gives 85 % of the exact energy, the Krylov space reaches 99.6 % for the same price.
  Steep spectra are done after a few blocks, each at two products with the gradient. Flat ones need many: there the
  Gram matrix of a wide gradient is formed after all, and the space grows by products with that.

The quick ways are checked (orthogonality of U and V, energy gained by the last blocks); what fails is done again by
the next more careful one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")

METHODS = ("auto", "exact", "gram", "randomized")
BLOCK = 16  # columns by which the Krylov space grows
GAIN = 5e-3  # it is done where its last two blocks brought less than this share of the energy; as much may be missing
MOST = 8  # stacks in work at a time; each takes memory
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

    @property
    def bytes(self) -> int:
        """Of the U, R and V that it begins, in fp32."""
        return 4 * (self.U.numel() + self.V.numel() + self.rank**2)


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
    """The cheapest way for (m, n), m <= n, by floating point operations; an eigenproblem costs about 20 m^3.

    Without a limit to the rank the number of directions is not known before, and the Gram matrix gives all of them.
    """
    if m <= 64:
        return "exact"
    if max_rank is None or 4 * max_rank > m:
        return "gram"
    k = expected_columns(m, max_rank)
    products = min(passes_price(m, n, k), gram_price(m, n, k))
    return "randomized" if products + 8 * m * k**2 + 20 * k**3 < m**2 * n + 20 * m**3 else "gram"


def passes_price(m: int, n: int, k: int) -> int:
    """Of products with the gradient and its transpose for k columns; thin ones run at less than half the speed."""
    return 10 * m * n * k


def gram_price(m: int, n: int, k: int) -> int:
    """Of half a Gram matrix and its products with k columns, in the same unit."""
    return m**2 * n + 4 * m**2 * k


def expected_columns(m: int, max_rank: int | None) -> int:
    """How many a flat spectrum takes."""
    return min(7 * (max_rank or m), most_columns(m, max_rank))


def most_columns(m: int, max_rank: int | None) -> int:
    """Where the Krylov space stops to grow, done or not."""
    return min(12 * (max_rank or m), 3 * m // 4)


@torch.no_grad()
def decompose(G: torch.Tensor, gamma: float, max_rank: int | None = None, method: str = "auto") -> list[Basis]:
    """Truncated SVD of each gradient in a stack (L, m, n), fp32: the smallest rank whose energy is >= gamma.

    The energy is that which the basis itself keeps. The randomised way's is at most about 0.5 % below the best of its
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
    A, size, totals = scaled(G.float())
    found: list[Basis | None] = [None] * len(A)
    for way in {"randomized": (krylov, gram, gram64), "gram": (gram, gram64), "exact": ()}[method]:
        left = [k for k, basis in enumerate(found) if basis is None]
        if left and not (way is gram and 1 - gamma < FINE):
            part = A if len(left) == len(A) else A[left]
            for k, basis in zip(left, way(part, gamma, max_rank, totals[left])):
                found[k] = basis
    left = [k for k, basis in enumerate(found) if basis is None]
    for k, basis in zip(left, exact(A[left], gamma, max_rank) if left else []):
        found[k] = basis
    for basis, s in zip(found, size):
        basis.S = basis.S * s
    return found


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """work(item) for all; on a CPU each in one thread, as the small factorisations in it hardly gain from more.

    There the results do not depend on the number of threads.
    """
    if device.type != "cpu":
        return [work(item) for item in items]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(min(threads, MOST), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)  # the workers' setting is what threads to come would start with


def energies(A: torch.Tensor) -> torch.Tensor:
    """||A||^2 of each in a stack (L, m, n), (L,) in fp64; line by line, as fp32 cannot add up millions of squares."""
    return torch.linalg.vector_norm(A, dim=2 if A.stride(2) == 1 else 1).double().square().sum(1)


def scaled(A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A and 1s, or, where squares would leave fp32's range, A over its largest entries and these; and its energies."""
    totals = energies(A)
    if ((totals > 1e-20) & (totals < 1e30)).all():
        return A, torch.ones_like(totals), totals  # no copy of what may be most of the memory
    size = A.abs().amax((1, 2))
    size = torch.where(size > 0, size, 1)
    A = A / size[:, None, None]
    return A, size, energies(A)


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


def gram(
    A: torch.Tensor, gamma: float, max_rank: int | None, totals: torch.Tensor, dtype: torch.dtype = torch.float32
) -> list[Basis | None]:
    """By A A^T = U S^2 U^T and V = A^T U / S; None where V is not orthogonal enough, S_r being too small for that."""
    B = A.to(dtype)
    values, U = torch.linalg.eigh(gram_matrix(B))  # ascending
    S, U = values.flip(-1).clamp_min(0).sqrt(), U.flip(-1)
    ranks = [choose_rank(s, gamma, max_rank) for s in S]
    return [finish(b, u[:, :r], total) for b, u, r, total in zip(B, U, ranks, totals.tolist())]


def gram_matrix(A: torch.Tensor) -> torch.Tensor:
    """A A^T (L, m, m); on the CPU, where it is half of the work, only the blocks on and below the diagonal."""
    m = A.shape[1]
    step = m if A.is_cuda else max(128, -(-m // 8))
    K = A.new_empty(len(A), m, m)
    for k in range(0, m, step):
        K[:, k:, k : k + step] = A[:, k:] @ A[:, k : k + step].mT
        K[:, k : k + step, k + step :] = K[:, k + step :, k : k + step].mT
    return K


def gram64(A: torch.Tensor, gamma: float, max_rank: int | None, totals: torch.Tensor) -> list[Basis | None]:
    """`gram` in double precision, which resolves directions down to 1e-5 of the first."""
    return gram(A, gamma, max_rank, totals, torch.float64)


def finish(A: torch.Tensor, U: torch.Tensor, total: float) -> Basis | None:
    """The basis of A's left singular vectors U (m, r), with V S = A^T U; None where either is not orthonormal."""
    VS = A.T @ U  # (n, r)
    S = VS.norm(dim=0)  # (r,)
    V = VS / S
    eye = torch.eye(len(S), dtype=U.dtype, device=U.device)
    if len(S) and max((V.T @ V - eye).abs().max(), (U.T @ U - eye).abs().max()) > SKEW:
        return None
    energy = min(S.double().square().sum().item() / total, 1.0) if total > 0 else 0.0
    return Basis(U.float().contiguous(), S.float(), V.float().contiguous(), energy)


def krylov(
    A: torch.Tensor, gamma: float, max_rank: int | None, totals: torch.Tensor, seed: int = 0
) -> list[Basis | None]:
    """By block Lanczos: in the span Q of A Omega, K A Omega, K^2 A Omega, ... with K = A A^T, the eigenvectors of
    T = Q^T K Q, which is block tridiagonal.

    None where the limit of columns is reached before the energy of the wanted directions stands still.
    """
    limit, energy = most_columns(A.shape[1], max_rank), totals.tolist()
    b = min(BLOCK, limit)
    omega = torch.randn(A.shape[2], b, generator=torch.Generator().manual_seed(seed)).to(A.device)
    Q, T = A.new_empty(*A.shape[:2], limit), A.new_zeros(len(A), limit, limit)
    Y, k = torch.linalg.qr(A @ omega).Q, 0
    KY = K = before = None
    while True:
        Z = A.mT @ Y if K is None else K @ Y  # half of K Y (L, n, b), or all of it
        new, old, k = slice(k, k + b), slice(max(k - b, 0), k), k + b
        Q[:, :, new], T[:, new, new] = Y, (Z if K is None else Y).mT @ Z
        if KY is not None:
            T[:, old, new] = KY.mT @ Y
            T[:, new, old] = T[:, old, new].mT
        if k in (b, 2 * b, 4 * b) or (k % (2 * b) == 0 and k > 4 * (max_rank or b)) or k + b > limit:
            values = torch.linalg.eigvalsh(T[:, :k, :k]).flip(-1).clamp_min(0)  # (L, k)
            ranks = settled(values, before, energy, gamma, max_rank)
            if None not in ranks or k + b > limit:
                break
            if K is None and flat(values, totals, A, max_rank):
                K = gram_matrix(A)
                Z = K @ Y
            before = values
        KY = A @ Z if K is None else Z
        Y = KY - Q[:, :, old.start : k] @ T[:, old.start : k, new]
        Y = torch.linalg.qr(Y).Q
        Y = torch.linalg.qr(Y - Q[:, :, :k] @ (Q[:, :, :k].mT @ Y)).Q  # what rounding left, or fills a deficient block
    w = torch.linalg.eigh(T[:, :k, :k]).eigenvectors.flip(-1)  # (L, k, k)
    tops = [None if r is None else Q[i, :, :k] @ w[i, :, :r] for i, r in enumerate(ranks)]  # (m, r)
    return [U if U is None else finish(A[i], U, energy[i]) for i, U in enumerate(tops)]


def flat(values: torch.Tensor, totals: torch.Tensor, A: torch.Tensor, max_rank: int | None) -> bool:
    """Whether many columns are still to come, the first ones holding little (Ritz values (L, k)), and A is so wide
    that its Gram matrix is cheaper than to go through A for each of them."""
    m, n = A.shape[1:]
    left = expected_columns(m, max_rank) - values.shape[1]
    return (values.sum(1) < totals / 4).all().item() and gram_price(m, n, left) < passes_price(m, n, left)


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
