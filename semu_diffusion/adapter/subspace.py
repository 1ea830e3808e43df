"""From the forgetting gradient to the basis: sum G over batches, make it orthogonal to W, truncate its SVD at gamma.

SEMU, arXiv 2502.07587, sections 3-4 and algorithm 1. A convolution's weight is the matrix (out, in * kh * kw).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn

from .base_layers import device_of, full_precision, matrix_shape, weight_matrix
from .config import SemuConfig
from .decompose import Basis, decompose, side_by_side
from .gradients import LossScale, NotFinite, gradients
from .layer import SemuLayer, layer_name
from .model import find_layers
from .moments import LeadingMoments, Root, second_moments
from .ranks import ALONE, Ranks
from .sketch import Sketch, Sums

Found = TypeVar("Found")

STACK = 2**25  # most numbers that are worked on together
CACHED = 2**21  # most of them on a CPU, where they are gone through many times and should stay in its cache


def at_once(shape: torch.Size, device: torch.device) -> int:
    """How many gradients of a shape are decomposed together."""
    return max(1, (CACHED if device.type == "cpu" else STACK) // shape.numel())


def project(G: torch.Tensor, W: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """G - (<G, W> / ||W||^2) W: the part of G (m, n) orthogonal to W, in the Frobenius inner product."""
    along, norm = (torch.linalg.vecdot(X, W).sum(dtype=torch.float64) for X in (G, W))  # row by row: no copy, no drift
    return torch.sub(G, W, alpha=(along / norm).item() if norm > 0 else 0.0, out=out)


def truncate(G: torch.Tensor, gamma: float, max_rank: int | None = None, method: str = "auto") -> Basis:
    """Truncated SVD of G (m, n) at energy gamma, the best approximation of its rank (Eckart-Young)."""
    return decompose(G[None], gamma, max_rank, method)[0]


def truncate_remain(
    G: torch.Tensor,
    C: torch.Tensor | LeadingMoments,
    gamma: float,
    max_rank: int | None,
    damping: float,
    method: str = "auto",
) -> Basis:
    """The basis in the metric of what must be kept: SVD of G C^(-1/2), mapped back by C^(-1/2).

    C (n, n) are second moments of the layer's inputs on what must be kept, so tr(D C D^T) is how far an update D
    moves its outputs there; per unit of that, D = G C^-1 forgets most. Any root of C does: with C = L L^T the SVD is
    that of G L^-T = U S W^T, and V = C^-1 G^T U / S = L^-T W. V is scaled to columns of norm 1 where C is a multiple
    of I.
    """
    return truncate_by(G, Root(C, damping, G.device), gamma, max_rank, method)


def truncate_by(G: torch.Tensor, root: Root, gamma: float, max_rank: int | None, method: str = "auto") -> Basis:
    """`truncate_remain` with the root of C."""
    basis = truncate(root.whiten(G), gamma, max_rank, method)
    # where nothing kept comes in, C is 0 and the basis is the Euclidean one
    V = root.back(basis.V) * max(root.size, 1e-30) ** 0.5
    return Basis(basis.U, basis.S, V.float().contiguous(), basis.energy)


def gamma_of(name: str, config: SemuConfig) -> float:
    """The gamma of a layer: that of the first matching pattern, else the general one."""
    return next((g for pattern, g in config.gamma_pattern.items() if re.search(pattern, name)), config.gamma)


def find_bases(
    model: nn.Module,
    config: SemuConfig,
    backward: Callable[[], object],
    forward: Callable[[], object] | None = None,
    sketch: int | None = None,
    method: str = "auto",
    scale: LossScale | None = None,
    on_host: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, Basis]:
    """The bases of all targeted layers: the whole of algorithm 1. Layers without gradient are left out.

    Sums, roots and factorisations are in fp32 and fp64 whatever the model's precision is, and outside autocast.

    Args:
        backward: Runs the forgetting loss over the forget data and back-propagates it.
        forward: Runs the model on what must be kept; needed for config.geometry "remain".
        sketch: None sums the gradients of all layers, as large as their weights in fp32. A number of columns sums
            sketches of that width instead, one layer's gradient alive at a time; energies are then estimates, and
            ranks cannot exceed it. 0 sums nothing: `backward` is one batch, and each layer's basis is exact.
        method: How to decompose: auto, exact, gram or randomized; see `decompose`.
        scale: What `backward` multiplies its loss by, for fp16; made smaller where gradients overflow.
        on_host: Keeps second moments and sums of gradients in the CPU's memory.
        ranks: The processes that have a share of the data each: sums are added up over them, and each decomposes its
            share of the layers. All get the same bases, on the CPU.

    Raises:
        ValueError: no targeted layer, no gradient in more than half of them, a gradient with NaN, a missing
            `forward`, or a second batch, or another process, with `sketch` 0.
    """
    layers = find_layers(model, config)
    if not layers:
        raise ValueError("the model has no Linear or Conv2d layer that target_modules names")
    if config.geometry == "remain" and forward is None:
        raise ValueError("the remain geometry needs inputs to keep: pass `forward`")
    if sketch is not None and sketch < 0:
        raise ValueError(f"sketch must be a number of columns, 0 for a single batch, or None, got {sketch}")
    if sketch == 0 and ranks.count > 1:
        raise ValueError("sketch 0 is for a single batch, and there are several processes; give a number of columns")
    remain = config.geometry == "remain"
    C = second_moments(model, config, forward, on_host=on_host, ranks=ranks) if remain else {}
    if sketch == 0:
        bases = finite_in_all(lambda: instant_bases(model, config, backward, C, method), scale, ranks)
    elif sketch is None and not on_host and not ranks.sharded:
        G = finite_in_all(lambda: gradients(model, config, backward), scale, ranks)
        bases = all_bases(G, layers, config, C, method, ranks)
    else:
        sums = finite_in_all(lambda: streamed_sums(model, config, backward, sketch, on_host), scale, ranks)
        bases = streamed_bases(sums, layers, config, C, method, ranks)
    bases = {name: bases[name] for name in layers if name in bases and bases[name].rank}
    check_share(layers, bases)
    return bases


def finite_in_all(run: Callable[[], Found], scale: LossScale | None, ranks: Ranks) -> Found:
    """What `run` returns; where a gradient overflows in any process, all begin again with a smaller loss scale."""
    while True:
        error, found = None, None
        try:
            found = run()
        except NotFinite as overflow:
            error = overflow
        errors = [said for said in ranks.each(error and str(error)) if said]
        if not errors:
            return found
        if scale is None or not scale.smaller():
            raise error or NotFinite(errors[0])


def without_basis(layers: Iterable[str], bases: dict[str, Basis]) -> list[str]:
    """The targeted layers that the forgetting loss has no gradient in."""
    return [name for name in layers if name not in bases]


def check_share(layers: Iterable[str], bases: dict[str, Basis]) -> None:
    """ValueError where fewer than half of the targeted layers have a basis."""
    if not bases:
        raise ValueError("the forgetting loss has no gradient in any targeted layer")
    left = without_basis(layers, bases)
    if len(left) > len(bases):
        some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        raise ValueError(
            f"the forgetting loss has a gradient in only {len(bases)} of {len(bases) + len(left)} targeted layers, "
            f"none in {some}; load the model in bf16 or fp32, or choose other target_modules"
        )


def all_bases(
    G: dict[str, torch.Tensor],
    layers: dict[str, nn.Module],
    config: SemuConfig,
    C: dict,
    method: str = "auto",
    ranks: Ranks = ALONE,
) -> dict[str, Basis]:
    """The bases of gradients (m, n), layers of one shape, or of the same inputs, together; G is emptied on the way."""
    if ranks.count > 1:
        G = with_all(G, layers, ranks)
    largest = sorted(G, key=lambda name: -G[name].numel())
    device = G[largest[0]].device if G else torch.device("cpu")
    groups: dict[tuple, list[str]] = {}
    for name in largest:
        same = (id(C[name]),) if C else (G[name].shape, gamma_of(name, config))
        groups.setdefault((*same, G[name].device), []).append(name)

    def of_inputs(names: list[str]) -> list[tuple[str, Basis]]:
        root = Root(C[names[0]], config.damping, G[names[0]].device)
        return [(k, find_basis(k, G.pop(k), weight_matrix(layers[k]), config, root, method)) for k in names]

    def of_shape(names: list[str]) -> list[tuple[str, Basis]]:
        first = G[names[0]]
        stack = torch.empty(len(names), *first.shape, device=first.device)  # (L, m, n)
        for name, out in zip(names, stack):
            project(G.pop(name), weight_matrix(layers[name]), out)
        return list(zip(names, decompose(stack, gamma_of(names[0], config), config.max_rank, method)))

    parts = list(groups.values())
    if not C:
        sizes = [at_once(G[names[0]].shape, G[names[0]].device) for names in parts]
        parts = [names[k : k + size] for names, size in zip(parts, sizes) for k in range(0, len(names), size)]
    if ranks.count > 1:
        parts = own_sums(G, parts, ranks)
    with full_precision(device):
        found = side_by_side(of_inputs if C else of_shape, parts, device)
    return of_all({name: basis for part in found for name, basis in part}, ranks)


def with_all(G: dict[str, torch.Tensor], layers: dict[str, nn.Module], ranks: Ranks) -> dict[str, torch.Tensor]:
    """The gradients that any process has, 0 where this one's records do not reach a layer."""
    named = ranks.named(G)
    empty = lambda layer: torch.zeros(matrix_shape(layer), device=device_of(layer))  # noqa: E731
    return {name: G[name] if name in G else empty(layer) for name, layer in layers.items() if name in named}


def owners_of(parts: Iterable[list[str]], shapes: dict[str, Sequence[int]], ranks: Ranks) -> dict[str, int]:
    """Who decomposes which layer, (m, n) each: those of a part together, and everybody about as much."""
    parts, cost = list(parts), lambda name: shapes[name][0] * shapes[name][1] * min(shapes[name])
    owners = ranks.shared_out([sum(map(cost, names)) for names in parts])
    return {name: owner for names, owner in zip(parts, owners, strict=True) for name in names}


def own_sums(G: dict[str, torch.Tensor], parts: list[list[str]], ranks: Ranks) -> list[list[str]]:
    """The parts that this process decomposes; their gradients are added up over all, the others are let go."""
    owners = owners_of(parts, {name: v.shape for name, v in G.items()}, ranks)
    for name, owner in owners.items():
        ranks.add(G[name])
        if owner != ranks.index:
            del G[name]
    return [names for names in parts if names[0] in G]


def of_all(bases: dict[str, Basis], ranks: Ranks) -> dict[str, Basis]:
    """The bases that all processes have found, each for its share of the layers."""
    if ranks.count == 1:
        return bases
    own = {name: Basis(b.U.cpu(), b.S.cpu(), b.V.cpu(), b.energy) for name, b in bases.items()}
    return {name: basis for found in ranks.each(own) for name, basis in found.items()}


def instant_bases(
    model: nn.Module, config: SemuConfig, backward: Callable[[], object], C: dict, method: str
) -> dict[str, Basis]:
    """The bases of one batch, each worked out as soon as its gradient is there: no two layers' are ever held."""
    layers, bases, root_of = find_layers(model, config), {}, Roots(C, config.damping)

    def basis_now(name: str, G: torch.Tensor) -> None:
        if name in bases:
            raise ValueError("sketch 0 is for a single batch, and a second one came; give a number of columns")
        bases[name] = find_basis(name, G, weight_matrix(layers[name]), config, root_of(name, G.device), method)

    gradients(model, config, backward, basis_now)
    return bases


def streamed_sums(
    model: nn.Module, config: SemuConfig, backward: Callable[[], object], sketch: int | None, on_host: bool
) -> Sums:
    """The gradients' sums over batches, as sketches or, where `sketch` is None, whole; one gradient at a time."""
    layers, sums = find_layers(model, config), Sums(sketch, store="cpu" if on_host else None)
    gradients(model, config, backward, lambda name, G: sums.add(name, G, weight_matrix(layers[name])))
    return sums


def streamed_bases(
    sums: Sums, layers: dict[str, nn.Module], config: SemuConfig, C: dict, method: str, ranks: Ranks = ALONE
) -> dict[str, Basis]:
    """The bases from sums, which are emptied on the way; each process decomposes its share of the layers."""
    bases, root_of, named = {}, Roots(C, config.damping), ranks.named(sums.sums)
    shapes, groups = {name: matrix_shape(layers[name]) for name in layers if name in named}, {}
    for name in shapes:
        groups.setdefault(id(C[name]) if C else name, []).append(name)
    owners = owners_of(groups.values(), shapes, ranks)
    for name, shape in shapes.items():
        device = device_of(layers[name])
        with full_precision(device):
            sums.add_up(name, shape, device, ranks)
            W = weight_matrix(layers[name])  # of a sharded model by all together
            if owners[name] != ranks.index:
                del sums.sums[name]
                continue
            total, root = sums.projected(name, W), root_of(name, device)
            if isinstance(total, Sketch) and root is None:
                bases[name] = total.basis(gamma_of(name, config), config.max_rank)
            else:
                total = total.product() if isinstance(total, Sketch) else total
                bases[name] = find_basis(name, total, W, config, root, method)
    return of_all(bases, ranks)


class Roots:
    """Roots of layers' second moments; the last one is kept, for those after it that see the same inputs."""

    def __init__(self, C: dict, damping: float):
        self.C, self.damping = C, damping
        self.last: tuple[object, Root | None] = (None, None)

    def __call__(self, name: str, device: torch.device) -> Root | None:
        C = self.C.get(name)
        if C is not self.last[0]:
            self.last = C, None if C is None else Root(C, self.damping, device)
        return self.last[1]


def find_basis(
    name: str, G: torch.Tensor, W: torch.Tensor, config: SemuConfig, root: Root | None, method: str = "auto"
) -> Basis:
    """The basis of one layer from its gradient G and weight W (m, n), with the root of its second moments or none."""
    G, gamma = project(G, W), gamma_of(name, config)
    if root is None:
        return truncate(G, gamma, config.max_rank, method)
    return truncate_by(G, root, gamma, config.max_rank, method)


def install_bases(model: nn.Module, bases: dict[str, Basis], adapter_name: str = "default") -> None:
    """Gives the SEMU layers of an adapted model their bases, R = 0; layers without a basis are unwrapped again.

    Raises:
        ValueError: a basis for a layer that carries no such adapter.
    """
    prefix = "base_model.model." if hasattr(model, "base_model") and hasattr(model, "peft_config") else ""
    found = (k for k, v in model.named_modules() if isinstance(v, SemuLayer) and adapter_name in v.r)
    paths = {layer_name(k.removeprefix(prefix)): k for k in found}
    layers = {name: model.get_submodule(path) for name, path in paths.items()}
    unknown = next((name for name in bases if name not in layers), None)
    if unknown:
        raise ValueError(f"the model has no SEMU layer {unknown} with adapter {adapter_name!r}")
    for name, layer in layers.items():
        if name in bases:
            layer.set_basis(adapter_name, bases[name].U, bases[name].V)
        elif len(layer.r) == 1:
            model.set_submodule(paths[name], layer.base_layer)
        else:
            layer.delete_adapter(adapter_name)
    config = model.peft_config[adapter_name]
    config.ranks = {name: bases[name].rank for name in layers if name in bases}
    config.target_modules = list(config.ranks)


def param_groups(model: nn.Module, lr: float, adapter_name: str = "default") -> list[dict]:
    """One optimizer group per R with learning rate lr * ||W||_F / sqrt(min(m, n) r) / rms(||V_j||).

    Adam moves every entry of R by its learning rate, so a step changes each layer by about lr relative to the size
    of its weight, whatever its rank and geometry: one lr suits all.
    """
    groups = []
    for layer in (m for m in model.modules() if isinstance(m, SemuLayer) and m.r.get(adapter_name)):
        W = weight_matrix(layer.get_base_layer())
        unit = (W.norm() / (min(W.shape) * layer.r[adapter_name]) ** 0.5).item()
        column = layer.semu_V[adapter_name].norm(dim=0).square().mean().sqrt().item()
        groups.append({"params": [layer.semu_R[adapter_name]], "lr": lr * (unit or 1.0) / (column or 1.0)})
    return groups
