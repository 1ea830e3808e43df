"""The adapted layers: y = base(x) + U R V^T x, without ever building the (out, in) matrix."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from .base_layers import (
    device_of,
    full_precision,
    is_adaptable,
    is_linear,
    is_quantised,
    is_sharded,
    matrix_shape,
    weight_shape,
)


def features(layer: nn.Linear | nn.Conv2d) -> tuple[int, int]:
    """What PEFT's tuners call in_features and out_features; a convolution's are its channels, kernels left aside."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features


def layer_name(path: str) -> str:
    """The name of the adapted layer at a module path; a LoRA around it does not count."""
    return path.removesuffix(".base_layer")


def hooks_of(module: nn.Module) -> list:
    """The hooks that accelerate put on a module."""
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", [] if hook is None else [hook]))


def held(tensors: nn.Module, name: str, meta: bool = False) -> torch.Tensor:
    """A tensor of a ParameterDict or BufferDict, fetched where it is offloaded.

    Hooks bring a module's own tensors before its forward; those of a dict are used without one.

    Args:
        meta: Whether all else is on the meta device, where no values are needed.

    Raises:
        ValueError: it has no values.
    """
    value = tensors[name]
    if not value.is_meta or meta:
        return value
    for hook in hooks_of(tensors):
        if getattr(hook, "weights_map", None) is not None:
            return hook.weights_map[name].to(hook.execution_device)
    raise ValueError("the adapter has no values (they are on the meta device); load it again")


class SemuLayer(nn.Module, BaseTunerLayer):
    """A Linear or Conv2d with any number of SEMU adapters; rank 0 is an exact no-op.

    Per adapter: `semu_U` (m, r) and `semu_V` (n, r), frozen buffers; `semu_R` (r, r), trained; all in fp32 unless
    PEFT was told `autocast_adapter_dtype=False`. `in_features` and `out_features` are channels for a convolution.
    """

    adapter_layer_names = ("semu_R",)
    other_param_names = ("semu_U", "semu_V", "r", "scaling", "dtypes")

    def __init__(self, base_layer: nn.Module, adapter_name: str, r: int = 0, inference_mode: bool = False):
        super().__init__()
        self.base_layer = base_layer
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.in_features, self.out_features = features(self.get_base_layer())
        self.semu_R = nn.ParameterDict()
        self.semu_U = BufferDict(persistent=True)
        self.semu_V = BufferDict(persistent=True)
        self._disable_adapters = False
        self.merged_adapters = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, inference_mode)

    def __getattr__(self, name: str):
        # Code that looks at a convolution's `groups`, or a linear layer's `in_features`, must find them here too.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.get_base_layer(), name)

    def update_layer(self, adapter_name: str, r: int, inference_mode: bool = False) -> None:
        """Adds an adapter of rank r with U = V = R = 0; `set_basis` or a state dict brings the values.

        Raises:
            ValueError: a rank above min(m, n), as a damaged config might ask for.
        """
        m, n = matrix_shape(self.get_base_layer())
        if r > min(m, n):
            raise ValueError(f"rank {r} is too high for a layer whose weight is ({m}, {n})")
        self.set_basis(adapter_name, torch.zeros(m, r), torch.zeros(n, r))
        self.scaling[adapter_name] = 1.0
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def set_basis(self, adapter_name: str, U: torch.Tensor, V: torch.Tensor, R: torch.Tensor | None = None) -> None:
        """Installs U (m, r), V (n, r) and R (r, r), zero unless given; a new rank replaces the old one."""
        r = U.shape[1]
        device, dtype = device_of(self.get_base_layer()), self.dtypes.setdefault(adapter_name, torch.float32)
        R = torch.zeros(r, r) if R is None else R.detach()
        self.r[adapter_name] = r
        # Copies: neither a caller's tensor nor the memory of a mapped file may live on inside the layer.
        self.semu_U[adapter_name] = U.detach().to(device, dtype).clone(memory_format=torch.contiguous_format)
        self.semu_V[adapter_name] = V.detach().to(device, dtype).clone(memory_format=torch.contiguous_format)
        trained = adapter_name not in self.semu_R or self.semu_R[adapter_name].requires_grad
        R = R.to(device, dtype).contiguous()
        self.semu_R[adapter_name] = nn.Parameter(R.clone(), requires_grad=trained and r > 0)

    def cast(self, adapter_name: str, dtype: torch.dtype) -> None:
        """An adapter in a type of its own, from now on."""
        self.dtypes[adapter_name] = dtype
        for parts in (self.semu_U, self.semu_V, self.semu_R):
            parts[adapter_name].data = parts[adapter_name].data.to(dtype)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Sets the strength of an adapter: W + scale * U R V^T."""
        if adapter in self.scaling:
            self.scaling[adapter] = float(scale)

    def scale_layer(self, scale: float) -> None:
        """Multiplies the strength of the active adapters."""
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divides the strength of the active adapters, or sets it back to 1."""
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] = 1.0 if scale is None or scale == 0 else self.scaling[name] / scale

    def left(self, adapter_name: str, meta: bool = False) -> torch.Tensor:
        """scale * U R, (m, r)."""
        U, R = (held(parts, adapter_name, meta) for parts in (self.semu_U, self.semu_R))
        return self.scaling[adapter_name] * U @ R

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """scale * U R V^T in the shape of the weight, fp32."""
        V = held(self.semu_V, adapter_name)
        with full_precision(V.device):
            return (self.left(adapter_name) @ V.T).reshape(weight_shape(self.get_base_layer()))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the update to the weight.

        Raises:
            ValueError, and no change: safe_merge finds a non-finite value, or the weight is quantised or sharded.
        """
        if is_sharded(self.get_base_layer().weight):
            raise ValueError("a sharded weight takes no update; merge on one process: semu export --to merged")
        if is_quantised(self.get_base_layer()):
            kind = type(self.get_base_layer()).__name__
            raise ValueError(f"a quantised {kind} takes no update into its weight; load the base in fp16, bf16 or fp32")
        weight = self.get_base_layer().weight
        if weight.is_meta and hooks_of(self.get_base_layer()):
            raise ValueError("the weights are offloaded; take the hooks off first: pipe.remove_all_hooks()")
        merged, names = weight.data, []
        for name in check_adapters_to_merge(self, adapter_names) or ():
            if not self.r.get(name):
                continue
            merged = (merged.float() + self.get_delta_weight(name)).to(weight.dtype)
            if safe_merge and not merged.isfinite().all():
                raise ValueError(f"merging adapter {name!r} would give non-finite weights; the adapter is broken")
            names.append(name)
        weight.data = merged
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Takes the merged updates out again, up to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight = self.get_base_layer().weight
            weight.data = (weight.data.float() - self.get_delta_weight(name)).to(weight.dtype)

    def delta(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """The layer's update applied to x, in the dtype of x."""
        raise TypeError(f"{type(self).__name__} has no update of its own; use SemuLinear or SemuConv2d")

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        if self.merged:
            return result
        for name in self.active_adapters:
            if self.r.get(name):
                result = result + self.delta(x, name).to(result.dtype)
        return result

    def __repr__(self) -> str:
        return "semu." + super().__repr__()


class SemuLinear(SemuLayer):
    """Linear layer with U R V^T beside it."""

    def delta(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        V, UR = held(self.semu_V, adapter_name, x.is_meta).to(x), self.left(adapter_name, x.is_meta).to(x)
        return F.linear(F.linear(x, V.T), UR)  # (..., n) -> (..., r) -> (..., m)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True


class SemuConv2d(SemuLayer):
    """Convolution with conv1x1(conv(x, V^T), U R) beside it; groups share V, as they share the columns of W."""

    def delta(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        conv = self.get_base_layer()
        V, UR = held(self.semu_V, adapter_name, x.is_meta).to(x), self.left(adapter_name, x.is_meta).to(x)
        down = V.T.reshape(-1, *weight_shape(conv)[1:]).contiguous()  # else torch takes x for channels last, and copies
        if conv.groups > 1:
            down = down.repeat(conv.groups, 1, 1, 1)  # (groups r, in / groups, kh, kw)
        return F.conv2d(conv._conv_forward(x, down, None), UR[:, :, None, None], groups=conv.groups)


def make_layer(target: nn.Module, adapter_name: str, r: int, inference_mode: bool, name: str = "") -> SemuLayer:
    """Wraps a Linear or Conv2d of any kind, or a tuner layer around one. ValueError for anything else."""
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if not is_adaptable(base):
        raise ValueError(f"SEMU adapts Linear and Conv2d layers, but {name or 'the target'} is {type(base).__name__}")
    return (SemuLinear if is_linear(base) else SemuConv2d)(target, adapter_name, r, inference_mode)
