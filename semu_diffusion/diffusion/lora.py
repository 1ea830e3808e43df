"""The LoRA file that plain diffusers, and ComfyUI, load: exactly the adapter, with a rank of its own for each layer."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import torch

from ..adapter.files import save_atomic
from ..adapter.updates import PRECISIONS
from ..adapter.weights import LORA, beyond_lora, lora_factors, lora_metadata
from .headers import facts_of, lora_header
from .kohya import model_kind
from .narrow import narrowed
from .pipeline import CLIP, EXPERTS, TEXT_ENCODERS, adapted_parts, component, lora_name


def has_lora(pipe) -> bool:
    """Whether plain diffusers loads a LoRA into this pipeline."""
    return hasattr(pipe, "load_lora_weights")


def lora_state(pipe, factors: dict[str, dict[str, tuple]]) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file under diffusers' names; factors are part -> layer -> (A, B).

    Raises:
        ValueError: a part for which the pipeline saves no LoRA.
    """
    arguments, known, state = {}, inspect.signature(type(pipe).save_lora_weights).parameters, {}
    for part, own in factors.items():
        if f"{part}_lora_layers" not in known:
            raise ValueError(f"{type(pipe).__name__} saves no LoRA for {part} in diffusers; use the native adapter")
        arguments[f"{part}_lora_layers"] = layers = {}
        for name, (A, B) in own.items():
            name = lora_name(part, name)
            layers |= {f"{name}.lora_A.weight": A.cpu(), f"{name}.lora_B.weight": B.cpu().contiguous()}
    type(pipe).save_lora_weights(".", **arguments, save_function=lambda weights, _: state.update(weights))
    return state


def save_lora(
    pipe, folder: str | Path, adapter_name: str = "default", uniform: bool = False, precision: str = "fp16"
) -> Path:
    """Writes `pytorch_lora_weights.safetensors`, which plain `pipe.load_lora_weights` reads, and returns it.

    In fp32 it is exactly the adapter; in fp16 it has half the size and an error of about 3e-4 of the update. Ranks
    differ by layer; they are in the file's header, which diffusers reads since 0.36. `uniform` pads all factors
    with zeros to the highest rank instead, for older ones. That of a second transformer is in a folder of its name, for
    `load_lora_weights(..., load_into_transformer_2=True)`.

    Raises:
        ValueError: diffusers has no LoRA for this pipeline, or none that can express a layer.
    """
    if not has_lora(pipe):
        raise ValueError(f"{type(pipe).__name__} loads no LoRA in diffusers; use the native adapter, or merge it")
    factors = {name: lora_factors(model, adapter_name) for name, model in adapted_parts(pipe, adapter_name).items()}
    factors = pad_parts(factors) if uniform else factors
    ranks = {}
    for part, own in factors.items():
        given = lora_metadata(own, CLIP if part in TEXT_ENCODERS else "")
        ranks |= {f"{part}.{key}": value for key, value in given.items()}
        factors[part] = {name: narrowed(A, B, PRECISIONS[precision]) for name, (A, B) in own.items()}
    written = []
    for part in [name for name in EXPERTS if name in factors]:
        second = {component(pipe): factors.pop(part)}
        own = {k.replace(part, component(pipe), 1): ranks.pop(k) for k in list(ranks) if k.startswith(f"{part}.")}
        written.append(write_lora(pipe, second, own, Path(folder) / part, adapter_name, precision))
    if factors:  # else only the second denoiser was asked where the concept is
        written.insert(0, write_lora(pipe, factors, ranks, Path(folder), adapter_name, precision))
    return written[0]


def write_lora(
    pipe, factors: dict[str, dict[str, tuple]], ranks: dict, folder: Path, adapter_name: str, precision: str
) -> Path:
    """One file of factors (part -> layer -> (A, B)) with the ranks in its header; returns it."""
    state = lora_state(pipe, factors)
    facts = {**facts_of(pipe, adapter_name), "precision": precision}
    header = lora_header(pipe, kind_of(pipe), state, facts)
    folder.mkdir(parents=True, exist_ok=True)
    save_atomic(state, folder / LORA, {"lora_adapter_metadata": json.dumps(ranks, sort_keys=True), **header})
    return folder / LORA


def kind_of(pipe) -> str | None:
    """`model_kind`; None for models that have no kohya names."""
    try:
        return model_kind(pipe)
    except ValueError:
        return None


def pad_parts(parts: dict[str, dict[str, tuple]]) -> dict[str, dict[str, tuple]]:
    """`pad_factors` over all parts at once: one rank for the whole file."""
    joint = pad_factors({(part, name): pair for part, own in parts.items() for name, pair in own.items()})
    return {part: {name: joint[part, name] for name in own} for part, own in parts.items()}


def pad_factors(factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """LoRA factors A (r, ...) and B (m, r, ...) of each layer, padded with zeros to the highest rank of all."""
    r, padded = max(len(A) for A, _ in factors.values()), {}
    for name, (A, B) in factors.items():
        missing = r - len(A)
        zeros = A.new_zeros(missing, *A.shape[1:]), B.new_zeros(len(B), missing, *B.shape[2:])
        padded[name] = torch.cat([A, zeros[0]]), torch.cat([B, zeros[1]], 1)
    return padded


def beyond_reach(family) -> list[str]:
    """Convolutions that get no adapter, as the LoRA that diffusers loads for the family could not express it."""
    layers = family.model.named_modules() if has_lora(family.pipe) else ()
    return [name for name, layer in layers if beyond_lora(layer)]
