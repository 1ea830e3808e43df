"""Quantised copies of a model's Linear layers on a CPU, where the libraries' own loaders ask for a GPU."""

import importlib.util

import pytest
import torch
from torch import nn

PACKAGES = {"bnb-int8": "bitsandbytes", "bnb-nf4": "bitsandbytes", "gguf-q8": "gguf", "quanto-int8": "optimum.quanto",
            "quanto-int4": "optimum.quanto", "torchao-int8": "torchao", "torchao-int4": "torchao"}  # fmt: skip
KINDS = tuple(PACKAGES)


def needs(kind: str) -> None:
    """Skips where the kind's package is missing, saying so."""
    package = PACKAGES[kind]
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{package} is not installed")


def bnb_int8(layer: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    new = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False)
    new.weight = bnb.nn.Int8Params(layer.weight.detach().clone(), requires_grad=False, has_fp16_weights=False)
    new.bias = layer.bias
    return new.to("cpu")


def bnb_nf4(layer: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    bias = layer.bias is not None
    new = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias, compute_dtype=torch.float32, quant_type="nf4")
    new.weight = bnb.nn.Params4bit(layer.weight.detach().clone(), requires_grad=False, quant_type="nf4", module=new)
    new.bias = layer.bias
    new.support_avx512bf16_for_cpu = False  # its packing of weights fails at small sizes and where gradients pass
    return new.to("cpu")


def gguf_q8(layer: nn.Linear) -> nn.Module:
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = gguf.GGMLQuantizationType.Q8_0
    stored = torch.from_numpy(gguf.quants.quantize(layer.weight.detach().float().numpy(), kind))
    new = GGUFLinear(layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=layer.weight.dtype)
    new.weight, new.bias = GGUFParameter(stored, quant_type=kind), layer.bias
    return new


MADE = {"bnb-int8": bnb_int8, "bnb-nf4": bnb_nf4, "gguf-q8": gguf_q8}


def config(kind: str):
    """diffusers' own quantisation config of a kind that it loads on a CPU."""
    from diffusers import QuantoConfig, TorchAoConfig

    library, weights = kind.split("-")
    if library == "quanto":
        return QuantoConfig(weights_dtype=weights)
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig({"int8": Int8WeightOnlyConfig, "int4": Int4WeightOnlyConfig}[weights]())


def quantised(kind: str, model: nn.Module, folder) -> nn.Module:
    """The model with every Linear of this kind: through diffusers where it does that on a CPU, else layer by layer."""
    needs(kind)
    if kind not in MADE:
        try:
            return type(model).from_pretrained(folder, quantization_config=config(kind), torch_dtype=torch.float32)
        except ImportError as error:
            pytest.skip(f"{kind} cannot be had here: {error}")
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and (kind != "gguf-q8" or layer.in_features % 32 == 0):
            model.set_submodule(name, MADE[kind](layer))
    return model
