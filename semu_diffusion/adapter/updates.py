"""The update D = U R V^T of one layer: inner products, truncation, and the types in which files hold it.

Everything works on the factors, so that no (m, n) matrix is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .decompose import Basis, choose_rank
from .moments import Root

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # of files that others read
STORED = {"int8": torch.int8, **PRECISIONS}  # U and V of a native file
STEPS = 127  # of int8, to either side


class Update(NamedTuple):
    """U (m, r), R (r, r) and V (n, r) of one layer."""

    U: torch.Tensor
    R: torch.Tensor
    V: torch.Tensor


def inner(a: Update, b: Update) -> float:
    """<D_a, D_b> of two updates D = U R V^T of one layer, from products of their factors."""
    left, right = a.U.double().T @ b.U.double(), a.V.double().T @ b.V.double()  # (r_a, r_b)
    return (a.R.double().T @ left @ b.R.double() * right).sum().item()


def norm(a: Update) -> float:
    """||D||_F of an update D = U R V^T."""
    return max(inner(a, a), 0.0) ** 0.5


def cosine(a: Update, b: Update) -> float:
    """<D_a, D_b> / ||D_a|| ||D_b||; 0 where one of them is zero."""
    scale = norm(a) * norm(b)
    return inner(a, b) / scale if scale > 0 else 0.0


def compress(
    U: torch.Tensor,
    R: torch.Tensor,
    V: torch.Tensor,
    energy: float,
    root: Root | None = None,
    max_rank: int | None = None,
) -> tuple[Basis, torch.Tensor]:
    """The update D = U R V^T truncated to the smallest rank that keeps `energy` of it, and its new R = diag(S).

    With a root L of second moments C = L L^T of the layer's inputs the energy is that of what D does to its outputs,
    ||D L||_F^2 = tr(D C D^T): with the leading left singular vectors P of D L, P P^T D changes them least
    (Eckart-Young). Without one it is ||D||_F^2. U is (m, p), R (p, q), V (n, q), of any p and q; p and q may exceed
    m and n. Rank 0 for an update that is zero. U and V come back orthonormal.

    Raises:
        ValueError: energy outside (0, 1].
    """
    check_energy(energy)
    QU, TU = torch.linalg.qr(U.double())
    T = TU @ R.double()  # D = QU T V^T
    P, S, _ = torch.linalg.svd(T @ triangle(V if root is None else root.times(V)).T, full_matrices=False)
    r = choose_rank(S, energy, max_rank)
    kept = (S[:r].square().sum() / S.square().sum().clamp_min(1e-300)).item()
    right, S, turn = torch.linalg.svd(V.double() @ T.T @ P[:, :r], full_matrices=False)  # P^T D, transposed: (n, r)
    basis = Basis((QU @ P[:, :r] @ turn.T).float(), S.float(), right.float(), kept)
    return basis, torch.diag(basis.S)


def triangle(V: torch.Tensor) -> torch.Tensor:
    """T (min(n, q), q) with T^T T = V^T V."""
    return torch.linalg.qr(V.double(), mode="r").R


def check_energy(energy: float) -> None:
    """ValueError for a share outside (0, 1]."""
    if not 0 < energy <= 1:
        raise ValueError(f"the energy to keep must be in (0, 1], got {energy}")


def check_precision(precision: str, known: dict[str, torch.dtype] = STORED) -> None:
    """ValueError for a name that is none of those."""
    if precision not in known:
        raise ValueError(f"precision must be one of {', '.join(known)}, got {precision!r}")


def precision_for_others(precision: str) -> str:
    """That of the LoRA and kohya files beside a native one: these formats have no int8."""
    return "fp16" if precision == "int8" else precision


def rounded(U: torch.Tensor, R: torch.Tensor, V: torch.Tensor, dtype: torch.dtype, name: str = "a layer") -> Update:
    """U and V in a narrower type. R stays as it is: it is small, and its values may span more than fp16 does.

    Powers of two move from columns of U and V into R: norms are near 1, which every type can hold; in int8 the largest
    value is between 64 and 127, so a column of 1000 numbers is off by 1 to 2 %. What is stored is multiplied as it is.

    Raises:
        ValueError: values that are too large all the same.
    """
    if dtype == torch.float32:
        return Update(U, R, V)
    whole = dtype == torch.int8
    scales = [
        power(X.abs().amax(dim=0) / STEPS, torch.ceil) if whole else power(X.norm(dim=0)) for X in (U, V)
    ]  # exact
    left, right = (X.round() if whole else X for X in (U / scales[0], V / scales[1]))
    narrow = Update(left.to(dtype), scales[0][:, None] * R * scales[1], right.to(dtype))
    if not all(X.isfinite().all() for X in narrow):
        raise ValueError(f"the update of {name} is too large for {dtype_name(dtype)}; use --precision fp32")
    return narrow


def widened(U: torch.Tensor, R: torch.Tensor, V: torch.Tensor) -> Update:
    """In fp32, from the types of a file. Of int8 factors powers of two move into R: norms are near 1 again."""
    wide = [X.float() for X in (U, V)]
    left, right = (
        power(X.norm(dim=0)) if Y.dtype == torch.int8 else power(X.new_ones(1)) for X, Y in zip(wide, (U, V))
    )
    return Update(wide[0] / left, left[:, None] * R.float() * right, wide[1] / right)


def power(x: torch.Tensor, to_whole: Callable[[torch.Tensor], torch.Tensor] = torch.round) -> torch.Tensor:
    """The power of two near each number >= 0; multiplying by one is exact."""
    return to_whole(x.clamp_min(1e-30).log2()).clamp(-100, 100).exp2()


def dtype_name(dtype: torch.dtype) -> str:
    """As torch names it, without the package."""
    return str(dtype).removeprefix("torch.")
