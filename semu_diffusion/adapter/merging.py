"""Several adapters of one base: added up into one, and how far they get in each other's way.

The sum of U_i R_i V_i^T is [U_1 .. U_k] diag(R_1 .. R_k) [V_1 .. V_k]^T. QR of the two outer factors leaves an SVD of
the small core, so the sum is again one U R V^T per layer with orthonormal U and V, and no (m, n) matrix is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .config import SemuConfig
from .switch import remove
from .updates import Update, compress, cosine, inner, norm
from .weights import put_adapter, semu_layers, update_of


def updates_of(model: nn.Module, adapter_name: str = "default") -> dict[str, Update]:
    """The adapter of a model by layer, R at its present strength."""
    found = {}
    for name, layer in semu_layers(model, adapter_name).items():
        U, R, V = update_of(layer, adapter_name)
        found[name] = Update(U, layer.scaling[adapter_name] * R, V)
    return found


def combine(updates: Sequence[Update], weights: Sequence[float], energy: float = 1.0) -> Update | None:
    """sum_i weight_i U_i R_i V_i^T as one update with orthonormal U and V; None where it is zero."""
    U, V = (torch.cat([getattr(u, part) for u in updates], 1) for part in "UV")
    R = torch.block_diag(*(w * u.R.detach() for w, u in zip(weights, updates)))
    basis, core = compress(U, R, V, energy)
    rounding = 1e-6 * max(abs(w) * norm(u) for w, u in zip(weights, updates))
    return Update(basis.U, core, basis.V) if basis.rank and basis.S[0] > rounding else None


def combine_adapters(
    adapters: Sequence[dict[str, Update]], weights: Sequence[float] | None = None, energy: float = 1.0
) -> dict[str, Update]:
    """The weighted sum of adapters, layer by layer; a layer that only some of them change is there as well.

    Raises:
        ValueError: as many weights as adapters are needed; nothing is left.
    """
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise ValueError(f"{len(weights)} weights for {len(adapters)} adapters; give one for each")
    combined = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        pairs = [(adapter[name], w) for adapter, w in zip(adapters, weights) if name in adapter]
        update = combine(*zip(*pairs), energy)
        if update is not None:
            combined[name] = update
    if not combined:
        raise ValueError("the adapters cancel each other out: nothing is left to write")
    return combined


def replace_adapters(
    model: nn.Module, names: Sequence[str], updates: dict[str, Update], config: SemuConfig, adapter_name: str
) -> None:
    """Takes adapters off a model and puts these updates on it, frozen and active, under one name."""
    for name in names:
        remove(model, name)
    put_adapter(model, config, {k: u._asdict() for k, u in updates.items()}, adapter_name)


# ---------------------------------------------------------------------------------------- interference


def overlap(A: torch.Tensor, B: torch.Tensor) -> float:
    """How much of the smaller column space lies in the other: ||Q_A^T Q_B||_F^2 / min rank, in [0, 1]; A, B (m, r)."""
    QA, QB = torch.linalg.qr(A.double()).Q, torch.linalg.qr(B.double()).Q
    return ((QA.T @ QB).square().sum() / min(QA.shape[1], QB.shape[1])).item()


def crowding(adapters: Sequence[Mapping[str, Update]]) -> float:
    """||sum_i D_i||^2 over the mean of ||D_i||^2, in the Frobenius norm over all layers; 0 where all are zero.

    As many times as much as one of them is what all at once change: k for k updates at right angles, k^2 for equal
    ones. What must stay suffers in the same proportion (measured on the embedded model: 4.3 times for four).
    """
    each = sum(inner(u, u) for adapter in adapters for u in adapter.values()) / max(len(adapters), 1)
    total = 0.0
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        own = [adapter[name] for adapter in adapters if name in adapter]
        U, V = (torch.cat([getattr(u, part) for u in own], 1) for part in "UV")
        whole = Update(U, torch.block_diag(*(u.R for u in own)), V)
        total += inner(whole, whole)
    return total / each if each > 0 else 0.0


def interference(adapters: Sequence[dict[str, Update]]) -> dict[str, torch.Tensor]:
    """Matrices (k, k) over pairs of adapters, each entry the mean over the layers that both change.

    columns, rows: overlap of the spaces in which the two change a layer's outputs, and read its inputs.
    chance: the column overlap of random subspaces of these ranks, max rank / m.
    cosine: of the updates; 0 means that their sum does what each does alone, wherever inputs are alike.
    layers: how many layers both change.
    """
    k = len(adapters)
    found = {key: torch.zeros(k, k) for key in ("columns", "rows", "chance", "cosine", "layers")}
    for i in range(k):
        for j in range(i, k):
            shared = [(adapters[i][name], adapters[j][name]) for name in adapters[i] if name in adapters[j]]
            values = {"layers": float(len(shared))}
            if shared:
                values["columns"] = sum(overlap(a.U, b.U) for a, b in shared) / len(shared)
                values["rows"] = sum(overlap(a.V, b.V) for a, b in shared) / len(shared)
                values["chance"] = sum(max(a.R.shape[0], b.R.shape[0]) / len(a.U) for a, b in shared) / len(shared)
                values["cosine"] = sum(cosine(a, b) for a, b in shared) / len(shared)
            for key, value in values.items():
                found[key][i, j] = found[key][j, i] = value
    return found
