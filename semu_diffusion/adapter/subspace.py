"""From the forgetting gradient to the basis: sum G over batches, make it orthogonal to W, truncate its SVD at gamma.

SEMU, arXiv 2502.07587, sections 3-4 and algorithm 1. A convolution's weight is the matrix (out, in * kh * kw).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from .config import SemuConfig
from .decompose import Basis, decompose, side_by_side
from .layer import SemuLayer, layer_name
from .model import find_layers
from .moments import LeadingMoments, Moments
from .sketch import Sketch, Sums

STACK = 2**25  # most numbers that are worked on together
CACHED = 2**21  # most of them on a CPU, where they are gone through many times and should stay in its cache


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of the block: no dropout, and BatchNorm statistics stay as they are."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def matrix(weight: torch.Tensor) -> torch.Tensor:
    """A weight as its matrix (m, n)."""
    return weight.flatten(1)


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
    if isinstance(C, LeadingMoments):
        basis, size = truncate(C.whiten(G, damping), gamma, max_rank, method), C.size
        V = C.whiten(basis.V.T, damping).T
    else:
        size = C.diagonal().double().mean().item()
        damped = C.double() + (damping * size + 1e-30) * torch.eye(len(C), dtype=torch.float64, device=C.device)
        Lt = torch.linalg.cholesky(damped).T
        A = torch.linalg.solve_triangular(Lt, G.double(), upper=True, left=False)  # (m, n)
        basis = truncate(A.float(), gamma, max_rank, method)
        V = torch.linalg.solve_triangular(Lt, basis.V.double(), upper=True)
    V = V * max(size, 1e-30) ** 0.5  # where nothing kept comes in, C is 0 and the basis is the Euclidean one
    return Basis(basis.U, basis.S, V.float().contiguous(), basis.energy)


def gamma_of(name: str, config: SemuConfig) -> float:
    """The gamma of a layer: that of the first matching pattern, else the general one."""
    return next((g for pattern, g in config.gamma_pattern.items() if re.search(pattern, name)), config.gamma)


def gradients(
    model: nn.Module,
    config: SemuConfig,
    backward: Callable[[], object],
    each: Callable[[str, torch.Tensor], object] | None = None,
) -> dict[str, torch.Tensor]:
    """Gradients (m, n), fp32, of whatever `backward` back-propagates, for each targeted layer that it reaches.

    `backward` is called once and may run over any number of batches; their gradients add up. The model is in eval
    mode meanwhile, other parameters get no gradient, and flags and stored gradients are put back afterwards.
    With an active adapter the gradient is the one at W + U R V^T.

    Args:
        each: Takes the name and gradient of a layer as soon as a batch's is there; it is freed then, so that only one
            is alive at a time, and nothing is returned.

    Raises:
        ValueError: a gradient that is not finite.
    """
    layers = find_layers(model, config)
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for parameter, *_ in before:
        parameter.requires_grad_(False)
        parameter.grad = None
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    handles = [] if each is None else [hand_over(name, layer.weight, each) for name, layer in layers.items()]
    try:
        with eval_mode(model):
            backward()
        found = {k: finite(k, v.weight.grad) for k, v in layers.items() if v.weight.grad is not None}
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag, grad in before:
            parameter.requires_grad_(flag)
            parameter.grad = grad
    return found


def hand_over(name: str, weight: nn.Parameter, each: Callable[[str, torch.Tensor], object]):
    """Registers the hook that passes a weight's gradient on and frees it."""

    def hook(parameter: nn.Parameter) -> None:
        if parameter.grad is not None:  # a weight that two layers share has been taken by the first
            G, parameter.grad = finite(name, parameter.grad), None
            with torch.no_grad():
                each(name, G)

    return weight.register_post_accumulate_grad_hook(hook)


def finite(name: str, grad: torch.Tensor) -> torch.Tensor:
    """The gradient as a matrix in fp32. ValueError where it is not finite."""
    G = matrix(grad).float()
    rows = torch.linalg.vector_norm(G, dim=1)  # quick; a square may overflow, so in doubt each number is looked at
    if not rows.isfinite().all() and not G.isfinite().all():
        raise ValueError(f"the forgetting gradient of {name} is not finite; lower the precision's risk with fp32")
    return G


def patches(layer: nn.Linear | nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The rows (positions, n) that a layer multiplies with its weight matrix; a convolution's are unfolded."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    sides = layer._reversed_padding_repeated_twice  # (left, right, top, bottom)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.unfold(F.pad(x, sides, mode=mode), layer.kernel_size, layer.dilation, 0, layer.stride)  # (B, in kh kw, L)
    return x.transpose(1, 2).reshape(-1, x.shape[1] // layer.groups)  # groups add up: they share V


def second_moments(
    model: nn.Module, config: SemuConfig, forward: Callable[[], object]
) -> dict[str, torch.Tensor | LeadingMoments]:
    """Mean of x x^T (n, n) over all inputs that each targeted layer sees while `forward` runs.

    For layers with more than `moments.WIDE` inputs its leading part.
    """
    layers = find_layers(model, config)
    sums: dict[str, Moments] = {}

    def watch(name: str):
        def hook(layer: nn.Module, args: tuple) -> None:
            n = matrix(layer.weight).shape[1]
            sums[name] = sums.get(name) or Moments(n, layer.weight.device)
            overlap = n // layer.weight.shape[1]  # unfolding makes so many copies of the input
            for part in args[0].detach().split(max(1, STACK // (args[0][0].numel() * overlap))):
                sums[name].add(patches(layer, part).float())

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), eval_mode(model):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: moments.mean() for name, moments in sums.items()}


def find_bases(
    model: nn.Module,
    config: SemuConfig,
    backward: Callable[[], object],
    forward: Callable[[], object] | None = None,
    sketch: int | None = None,
    method: str = "auto",
) -> dict[str, Basis]:
    """The bases of all targeted layers: the whole of algorithm 1. Layers without gradient are left out.

    Args:
        backward: Runs the forgetting loss over the forget data and back-propagates it.
        forward: Runs the model on what must be kept; needed for config.geometry "remain".
        sketch: None sums the gradients of all layers, as large as their weights in fp32. A number of columns sums
            sketches of that width instead, one layer's gradient alive at a time; energies are then estimates, and
            ranks cannot exceed it. 0 sums nothing: `backward` is one batch, and each layer's basis is exact.
        method: How to decompose: auto, exact, gram or randomized; see `decompose`.

    Raises:
        ValueError: no targeted layer, no gradient anywhere, a gradient with NaN, a missing `forward`, or a second
            batch with `sketch` 0.
    """
    layers = find_layers(model, config)
    if not layers:
        raise ValueError("the model has no Linear or Conv2d layer that target_modules names")
    if config.geometry == "remain" and forward is None:
        raise ValueError("the remain geometry needs inputs to keep: pass `forward`")
    if sketch is not None and sketch < 0:
        raise ValueError(f"sketch must be a number of columns, 0 for a single batch, or None, got {sketch}")
    C = second_moments(model, config, forward) if config.geometry == "remain" else {}
    if sketch is None:
        bases = all_bases(gradients(model, config, backward), layers, config, C, method)
    else:
        bases = streamed_bases(model, config, backward, C, sketch, method)
    bases = {name: bases[name] for name in layers if name in bases and bases[name].rank}
    if not bases:
        raise ValueError("the forgetting loss has no gradient in any targeted layer")
    return bases


def all_bases(
    G: dict[str, torch.Tensor], layers: dict[str, nn.Module], config: SemuConfig, C: dict, method: str = "auto"
) -> dict[str, Basis]:
    """The bases of gradients (m, n), layers of one shape together; G is emptied on the way, to free its memory."""
    W = lambda name: matrix(layers[name].weight.detach()).float()  # noqa: E731
    largest = sorted(G, key=lambda name: -G[name].numel())
    device = G[largest[0]].device if G else torch.device("cpu")
    if C:
        one = lambda name: (name, find_basis(name, G.pop(name), W(name), config, C[name], method))  # noqa: E731
        return dict(side_by_side(one, largest, device))
    groups: dict[tuple, list[str]] = {}
    for name in largest:
        groups.setdefault((G[name].shape, G[name].device, gamma_of(name, config)), []).append(name)
    parts = []
    for (shape, place, gamma), names in groups.items():
        size = at_once(shape, place)
        parts += [(names[k : k + size], gamma) for k in range(0, len(names), size)]

    def of_part(part: tuple[list[str], float]) -> list[tuple[str, Basis]]:
        names, gamma = part
        first = G[names[0]]
        stack = torch.empty(len(names), *first.shape, device=first.device)  # (L, m, n)
        for name, out in zip(names, stack):
            project(G.pop(name), W(name), out)
        return list(zip(names, decompose(stack, gamma, config.max_rank, method)))

    return {name: basis for found in side_by_side(of_part, parts, device) for name, basis in found}


def streamed_bases(
    model: nn.Module, config: SemuConfig, backward: Callable[[], object], C: dict, sketch: int, method: str
) -> dict[str, Basis]:
    """The bases without ever holding two layers' gradients: from the one batch, or from sketches of several."""
    layers, bases, sums = find_layers(model, config), {}, Sums(sketch)
    W = lambda name: matrix(layers[name].weight.detach()).float()  # noqa: E731

    def basis_now(name: str, G: torch.Tensor) -> None:
        if name in bases:
            raise ValueError("sketch 0 is for a single batch, and a second one came; give a number of columns")
        bases[name] = find_basis(name, G, W(name), config, C.pop(name, None), method)

    gradients(model, config, backward, (lambda name, G: sums.add(name, G, W(name))) if sketch else basis_now)
    for name in list(sums.sums):
        total = sums.projected(name, W(name))
        if isinstance(total, Sketch) and name not in C:
            bases[name] = total.basis(gamma_of(name, config), config.max_rank)
            continue
        if isinstance(total, Sketch):
            Q, core, P = total.factors()
            total = Q @ core @ P.T
        bases[name] = find_basis(name, total, W(name), config, C.pop(name, None), method)
    return bases


def find_basis(
    name: str,
    G: torch.Tensor,
    W: torch.Tensor,
    config: SemuConfig,
    C: torch.Tensor | LeadingMoments | None,
    method: str = "auto",
) -> Basis:
    """The basis of one layer from its gradient G and weight W (m, n)."""
    G = project(G, W.float())
    if C is None:
        return truncate(G, gamma_of(name, config), config.max_rank, method)
    return truncate_remain(G, C, gamma_of(name, config), config.max_rank, config.damping, method)


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
        W = matrix(layer.get_base_layer().weight.detach())
        unit = (W.float().norm() / (min(W.shape) * layer.r[adapter_name]) ** 0.5).item()
        column = layer.semu_V[adapter_name].norm(dim=0).square().mean().sqrt().item()
        groups.append({"params": [layer.semu_R[adapter_name]], "lr": lr * (unit or 1.0) / (column or 1.0)})
    return groups
