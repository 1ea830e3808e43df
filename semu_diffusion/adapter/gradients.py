"""Gradients of a loss by the weights of layers, whatever those are stored as: from autograd, or from what goes in and
what comes back.

A weight of floating point numbers has its gradient from autograd. A quantised one cannot, so there the input x (N, n)
is kept and G = sum of g x^T is formed from the output's gradient g (N, m), one layer's at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from .base_layers import full_precision, is_differentiable, is_linear, weight_shape
from .config import SemuConfig
from .model import find_layers

Take = Callable[[str, torch.Tensor], object]  # gets the name of a layer and a batch's gradient (m, n), fp32


class NotFinite(ValueError):
    """A gradient with NaN or infinite numbers."""


class LossScale:
    """What a loss is multiplied by before it is back-propagated through fp16, where small gradients would become 0.

    Whoever back-propagates multiplies by `value`; where that overflows, `find_bases` begins again with less.
    """

    def __init__(self, value: float = 1.0, step: float = 16.0):
        self.value, self.step = value, step

    def smaller(self) -> bool:
        """Divides the scale; False where it is at 1 already."""
        self.value, before = max(1.0, self.value / self.step), self.value
        return self.value < before


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


def show_inputs(model: nn.Module, hooks: Mapping[nn.Module, Callable], forward: Callable[[], object]) -> None:
    """Runs the model in eval mode and without gradients, while each layer's inputs are shown to its hook first."""
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in hooks.items()]
    try:
        with torch.no_grad(), eval_mode(model):
            forward()
    finally:
        for handle in handles:
            handle.remove()


def gradients(
    model: nn.Module,
    config: SemuConfig,
    backward: Callable[[], object],
    each: Take | None = None,
) -> dict[str, torch.Tensor]:
    """Gradients (m, n), fp32, of whatever `backward` back-propagates, for each targeted layer that it reaches.

    `backward` is called once and may run over any number of batches; their gradients add up in fp32. The model is in
    eval mode meanwhile, other parameters get no gradient, and flags and stored gradients are put back afterwards.
    With an active adapter the gradient is the one at W + U R V^T.

    Args:
        each: Takes the name and gradient of a layer as soon as a batch's is there; it is freed then, so that only one
            is alive at a time, and nothing is returned.

    Raises:
        NotFinite: a gradient that is not finite.
    """
    layers, sums = find_layers(model, config), {}
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for parameter, *_ in before:
        parameter.requires_grad_(False)
        parameter.grad = None
    plain = {name: layer for name, layer in layers.items() if is_differentiable(layer)}
    for layer in plain.values():
        layer.weight.requires_grad_(True)
    take = each or (lambda name, G: add_up(sums, name, G))
    handles = [tap(name, layer, take) for name, layer in layers.items() if name not in plain]
    handles += [hand_over(name, v.weight, take) for name, v in plain.items() if each or v.weight.dtype != torch.float32]
    try:
        with eval_mode(model):
            backward()
        sums |= {k: finite(k, v.weight.grad) for k, v in plain.items() if v.weight.grad is not None}
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag, grad in before:
            if parameter.requires_grad != flag:  # a quantised parameter may not even be told what it already is
                parameter.requires_grad_(flag)
            parameter.grad = grad
    return {name: sums[name] for name in layers if name in sums}


def add_up(sums: dict[str, torch.Tensor], name: str, G: torch.Tensor) -> None:
    """Adds a batch's gradient to a layer's sum."""
    sums[name] = sums[name].add_(G) if name in sums else G


def hand_over(name: str, weight: nn.Parameter, take: Take):
    """Registers the hook that passes a weight's gradient on and frees it."""

    def hook(parameter: nn.Parameter) -> None:
        if parameter.grad is not None:  # a weight that two layers share has been taken by the first
            G, parameter.grad = finite(name, parameter.grad), None
            with torch.no_grad(), full_precision(G.device):
                take(name, G)

    return weight.register_post_accumulate_grad_hook(hook)


def finite(name: str, grad: torch.Tensor) -> torch.Tensor:
    """The gradient as a matrix in fp32. NotFinite where it is not."""
    G = grad.flatten(1).float()
    rows = torch.linalg.vector_norm(G, dim=1)  # quick; a square may overflow, so in doubt each number is looked at
    if not rows.isfinite().all() and not G.isfinite().all():
        raise NotFinite(f"the forgetting gradient of {name} is not finite; lower the precision's risk with fp32")
    return G


class Tap(torch.autograd.Function):
    """The identity on a layer's output; on the way back it gives the layer's input and output gradient to `take`.

    The input is kept as autograd keeps what it needs, so gradient checkpointing spares it as well.
    """

    @staticmethod
    def forward(ctx, out: torch.Tensor, x: torch.Tensor, start: torch.Tensor, take: Callable) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.take = take
        return out.view_as(out)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        ctx.take(*ctx.saved_tensors, grad)
        return grad, None, None, None


def tap(name: str, layer: nn.Module, take: Take):
    """Registers the hook that forms the gradient of a layer's weight from its input and its output's gradient."""
    start = torch.zeros((), requires_grad=True)  # so that there is a way back even where the input has none

    def taken(x: torch.Tensor, grad: torch.Tensor) -> None:
        with torch.no_grad(), full_precision(grad.device):
            take(name, finite(name, weight_gradient(layer, x.float(), grad.float())))

    def hook(_: nn.Module, args: tuple, out: torch.Tensor) -> torch.Tensor:
        return Tap.apply(out, args[0].detach(), start, taken) if torch.is_grad_enabled() else out

    return layer.register_forward_hook(hook)


def weight_gradient(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Gradient of a layer's weight from its input x and the gradient of its output."""
    if is_linear(layer):
        return grad.flatten(0, -2).T @ x.flatten(0, -2)
    x = padded(layer, x)
    return nn.grad.conv2d_weight(x, weight_shape(layer), grad, layer.stride, 0, layer.dilation, layer.groups)


def padded(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A convolution's input (B, C, H, W) with its padding, of any mode."""
    sides = layer._reversed_padding_repeated_twice  # (left, right, top, bottom)
    return F.pad(x, sides, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def patches(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The rows (positions, n) that a layer multiplies with its weight matrix; a convolution's are unfolded."""
    if is_linear(layer):
        return x.flatten(0, -2)
    x = F.unfold(padded(layer, x), layer.kernel_size, layer.dilation, 0, layer.stride)  # (B, in kh kw, L)
    return x.transpose(1, 2).reshape(-1, x.shape[1] // layer.groups)  # groups add up: they share V
