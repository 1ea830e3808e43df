"""The layers that can carry an adapter, however their weights are stored: what they are, their sizes, their weights.

A quantised Linear (bitsandbytes, torchao, quanto, GGUF, HQQ, ...) is a Linear as good as any. Its weight cannot be
differentiated by autograd, and its tensor may have another shape, so nothing but this module looks at that.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn

# A subclass that never calls its own forward: nn.MultiheadAttention takes its weight, and an adapter would be bypassed.
BYPASSED = (nn.modules.linear.NonDynamicallyQuantizableLinear, nn.LazyLinear)
ROWS = 1024  # of the identity that a layer is given at a time, where its weight can be had in no other way


def full_precision(device: torch.device | str) -> AbstractContextManager:
    """No autocast for the time of the block: sums, products and factorisations in the tensors' own dtype."""
    kind = torch.device(device).type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def compute_dtype(model: nn.Module) -> torch.dtype:
    """The floating point type that a model computes in: that of most of its numbers, or what its quantiser says.

    A model may keep a few layers in fp32, and the tensors of a quantised one may be whole numbers.
    """
    said = getattr(getattr(model, "hf_quantizer", None), "compute_dtype", None)
    if isinstance(said, torch.dtype):
        return said
    sizes: Counter[torch.dtype] = Counter()
    for p in model.parameters():
        if p.is_floating_point():
            sizes[p.dtype] += p.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float32


def is_linear(module: nn.Module) -> bool:
    """A Linear in PEFT's eyes: torch's and its subclasses, and the quantised ones of other libraries."""
    if isinstance(module, nn.Linear):
        return not isinstance(module, BYPASSED)
    sizes = (getattr(module, side, None) for side in ("in_features", "out_features"))
    named = "Linear" in type(module).__name__ and not isinstance(module, BYPASSED)
    return named and all(isinstance(size, int) for size in sizes) and not any(True for _ in module.children())


def is_adaptable(module: nn.Module) -> bool:
    """Whether a module is a Linear or Conv2d, of any kind."""
    return is_linear(module) or isinstance(module, nn.Conv2d)


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Shape of the weight that the layer computes with, whatever the shape of the tensor that stores it."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
    return layer.out_features, layer.in_features


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """(m, n) of the layer's weight as a matrix: (out, in), for a convolution (out, in / groups * kh * kw)."""
    m, *rest = weight_shape(layer)
    return m, int(torch.Size(rest).numel())


def hook_device(module: nn.Module) -> torch.device | None:
    """Where the hooks of accelerate or diffusers bring an offloaded module for its calls; None where there are none."""
    hook = getattr(module, "_hf_hook", None)
    places = [getattr(h, "execution_device", None) for h in getattr(hook, "hooks", [hook])]
    if (registry := getattr(module, "_diffusers_hook", None)) is not None:
        group = getattr(registry.get_hook("group_offloading"), "group", None)
        places.append(getattr(group, "onload_device", None))
    place = next((place for place in places if place is not None), None)
    return torch.device("cuda", place) if isinstance(place, int) else place and torch.device(place)


def device_of(layer: nn.Module) -> torch.device:
    """Where the layer computes; an offloaded one's weights may be elsewhere between its calls."""
    own = next((t.device for t in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
    return hook_device(layer) or own


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of torch's `DTensor`, of which each process holds a part."""
    return hasattr(tensor, "full_tensor")


def is_quantised(layer: nn.Module) -> bool:
    """Whether the layer's weight is not a plain tensor of floating point numbers; a shard of one is not either."""
    weight = getattr(layer, "weight", None)
    plain = type(weight) in (torch.Tensor, nn.Parameter)
    return not plain or not weight.is_floating_point() or tuple(weight.shape) != weight_shape(layer)


def is_differentiable(layer: nn.Module) -> bool:
    """Whether autograd can give the gradient of the layer's weight: it is plain, and stays where it is."""
    return not is_quantised(layer) and layer.weight.device.type != "meta" and device_of(layer) == layer.weight.device


def weight_matrix(layer: nn.Module) -> torch.Tensor:
    """The weight as its matrix (m, n) in fp32, dequantised where it is quantised, on the device where it computes.

    Of a sharded model all processes have to ask for it together.
    """
    from accelerate.utils import align_module_device

    with torch.no_grad(), full_precision(device_of(layer)), align_module_device(layer):
        return dequantised(layer).detach().to(device_of(layer), torch.float32).reshape(matrix_shape(layer))


def dequantised(layer: nn.Module) -> torch.Tensor:
    """The weight as a plain tensor: by its own library where that has a way, else from what the layer computes."""
    if not is_quantised(layer):
        return layer.weight
    weight = getattr(layer, "weight", None)
    if is_sharded(weight):
        return weight.full_tensor()
    if type(weight).__name__ == "GGUFParameter":
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        return dequantize_gguf_tensor(weight)
    if type(weight).__module__.startswith("optimum."):
        return weight.dequantize()
    if type(weight).__name__ == "Int8Params":  # PEFT's way takes the scales off a layer on a CPU
        import bitsandbytes

        state = layer.state
        scales = weight.SCB if state.SCB is None else state.SCB
        return bitsandbytes.functional.int8_vectorwise_dequant(weight.data, scales.to(weight.device))
    packed = getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False)
    if not packed and (hasattr(layer, "W_q") or type(weight).__module__.startswith(("torchao.", "bitsandbytes."))):
        return dequantize_module_weight(layer)
    return measured_weight(layer)


def measured_weight(layer: nn.Module) -> torch.Tensor:
    """(m, n) from the layer's outputs for the identity, less its bias."""
    dtype = next((t.dtype for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point()), torch.float32)
    eye = torch.eye(layer.in_features, dtype=dtype, device=device_of(layer))
    bias = layer(torch.zeros_like(eye[:1]))
    return torch.cat([layer(rows) - bias for rows in eye.split(ROWS)]).T
