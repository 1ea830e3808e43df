"""Adapters fused in closed form: on each one's inputs the result does what that one does, on all others nothing.

With D_i the update of adapter i in a layer, C_i the second moments of the layer's inputs on what adapter i erases, and
C those on what must stay,

    D* = argmin_D  sum_i tr((D - D_i) C_i (D - D_i)^T) + lambda tr(D C D^T)
       = (sum_i D_i C_i) (sum_i C_i + lambda C)^-1,

least squares in the inputs. RegMean (Jin et al., arXiv 2212.09849) is the case of whole models and lambda 0, the fusion
of MACE (Lu et al., arXiv 2403.06135) that of keys and values. With M = sum_i C_i + lambda C and D_i = U_i R_i V_i^T,

    D* = [U_1 R_1 .. U_k R_k] [X_1 .. X_k]^T,   X_i = M^-1 C_i V_i,

so that nothing of size (m, n) is built, and of each adapter only C_i V_i (n, r_i) is kept beside the sum M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .moments import LeadingMoments, Root, mixed, product
from .updates import Update, compress

Moments = torch.Tensor | LeadingMoments


class Fusion:
    """Takes in adapters one after the other, each with the moments on its own records, then gives their fusion.

    A layer that some adapters leave alone is fused with no update for them: there, too, it does nothing on their
    inputs.
    """

    def __init__(self):
        self.moments: dict[str, Moments] = {}  # M by layer
        self.left: dict[str, dict[int, torch.Tensor]] = {}  # layer -> number of the adapter -> U_i R_i (m, r_i)
        self.right: dict[str, dict[int, torch.Tensor]] = {}  # C_i V_i (n, r_i)
        self.count = 0

    def keep(self, C: Mapping[str, Moments], weight: float) -> None:
        """Adds weight * C to M: inputs on which nothing shall be done."""
        for name, own in C.items():
            before = [(1.0, self.moments[name])] if name in self.moments else []
            self.moments[name] = mixed([*before, (weight, own)])

    def add(self, adapter: Mapping[str, Update], C: Mapping[str, Moments], share: float = 1.0) -> None:
        """Adds an adapter with the moments of all layers that any of the adapters changes.

        Args:
            share: How much its inputs count, such as the number of concepts that it erases.

        Raises:
            ValueError: a layer without moments, or an update that they do not fit.
        """
        for name, (U, R, V) in adapter.items():
            if name not in C:
                raise ValueError(f"layer {name} is not used on what the adapter erases; leave it out")
            if len(V) != width(C[name]):
                raise ValueError(f"layer {name} has {width(C[name])} inputs, the adapter's update {len(V)}")
            self.left.setdefault(name, {})[self.count] = U @ R
            self.right.setdefault(name, {})[self.count] = share * product(C[name], V)
        self.keep(C, share)
        self.count += 1

    def fused(
        self,
        energy: float = 1.0,
        strengths: Sequence[float] | None = None,
        damping: float = 1e-3,
        max_rank: int | None = None,
    ) -> dict[str, Update]:
        """D* of each layer, truncated to `energy` of what it does to its outputs: in the metric M (`compress`).

        Args:
            strengths: Of each adapter's update, in the order in which they came; 1 unless given.
            damping: M becomes M + damping * mean(diag M) * I.

        Raises:
            ValueError: nothing was added, or energy outside (0, 1].
        """
        if not self.left:
            raise ValueError("no adapter was added: there is nothing to fuse")
        strengths, found = strengths or [1.0] * self.count, {}
        for name, left in self.left.items():
            A = torch.cat([strengths[k] * part for k, part in left.items()], 1)
            root = Root(self.moments[name], damping, A.device)
            X = root.solve(torch.cat(list(self.right[name].values()), 1))
            basis, core = compress(A, torch.eye(A.shape[1]).to(A), X, energy, root.times(X), max_rank)
            if basis.rank:
                found[name] = Update(basis.U, core, basis.V)
        return found


def width(C: Moments) -> int:
    """The number of inputs."""
    return len(C.P) if isinstance(C, LeadingMoments) else len(C)
