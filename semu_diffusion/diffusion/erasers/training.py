"""Training what is added to whole weights, in fp32 beside a model of any type, which stays as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from ...adapter import SemuConfig
from ...adapter.base_layers import device_of, is_linear, matrix_shape
from ...adapter.model import find_layers
from ..config import TARGETS
from .task import Task

FP16_SCALE = 2.0**10  # of the loss, as small gradients would become 0 on their way through fp16


def layers_of(task: Task) -> dict[str, nn.Module]:
    """The Linear layers that the task's `target_modules` names.

    Raises:
        ValueError: none, or a convolution among them.
    """
    pattern = TARGETS.get(task.config.target_modules, task.config.target_modules)
    found = find_layers(task.model, SemuConfig(target_modules=pattern))
    if not found:
        raise ValueError(f"{task.config.method} changes {task.config.target_modules} layers, which this model lacks")
    other = next((name for name, layer in found.items() if not is_linear(layer)), None)
    if other:
        raise ValueError(f"{task.config.method} changes Linear layers only, and {other} is none")
    return found


@contextlib.contextmanager
def beside(layers: dict[str, nn.Module]) -> Iterator[dict[str, nn.Parameter]]:
    """D (m, n) = 0 by layer, and x D^T added to what the layer makes of x, for the time of the block.

    So D has all its digits where the weight has few, and a quantised weight needs no gradient.
    """
    deltas = {k: nn.Parameter(torch.zeros(matrix_shape(m), device=device_of(m))) for k, m in layers.items()}

    def adds(D: nn.Parameter) -> Callable:
        return lambda layer, inputs, output: output + F.linear(inputs[0].to(D.dtype), D).to(output.dtype)

    handles = [layer.register_forward_hook(adds(deltas[name])) for name, layer in layers.items()]
    try:
        yield deltas
    finally:
        for handle in handles:
            handle.remove()


def train(task: Task, loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adam on whole updates of the task's layers, `steps` times on the loss of a fresh batch.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
    """
    config, scale = task.config, FP16_SCALE if task.family.dtype == torch.float16 else 1.0
    task.callback.stage(f"training {config.method}", config.steps)
    with beside(layers_of(task)) as deltas:
        optimizer = torch.optim.Adam(deltas.values(), config.lr)
        for step in range(config.steps):
            value = loss()
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss is {value.item()} at step {step + 1}; lower --lr")
            (scale * value).backward()
            for D in deltas.values():
                if D.grad is not None:
                    D.grad /= scale
                    if not D.grad.isfinite().all():
                        raise FloatingPointError(f"fp16 overflowed at step {step + 1}; use --dtype bf16 or fp32")
            optimizer.step()
            optimizer.zero_grad()
            task.history.append({"step": step + 1, "loss": value.item()})
            task.callback.row(task.history[-1])
    return {name: D.detach() for name, D in deltas.items()}
