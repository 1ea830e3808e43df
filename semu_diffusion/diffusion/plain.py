"""The pipeline made plain: what a user has put on it is taken off for a while, and put back as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..adapter.layer import SemuLayer, hooks_of
from .pipeline import component, denoiser

FREEU = ("s1", "s2", "b1", "b2")


@contextlib.contextmanager
def plain(pipe, learning: bool = False, hooks: bool | None = None) -> Iterator[list[str]]:
    """The model itself, without what else would be measured or learned with it; yields what was taken off, in words.

    Safety checker and watermark, LoRAs and other foreign adapters, IP-Adapters, FreeU and caches go, and come back at
    the end, also after an error. SEMU adapters stay, as they are what is measured.

    Args:
        learning: SEMU adapters that are on go, too. An adapter that is put on meanwhile stays on beside those that
            come back.
        hooks: Offload hooks go, too, for what uses weights outside the modules that hold them; default: for learning.

    Raises:
        ValueError: a LoRA that is fused into the weights; where hooks go, a model that is spread over devices.
    """
    off: list[str] = []
    takers = (without_filters, without_image_prompts, without_shortcuts)
    with contextlib.ExitStack() as stack:
        for take in (
            (without_hooks, *takers) if (learning if hooks is None else hooks) else takers
        ):  # hooks come back last, when all else is there
            stack.enter_context(take(pipe, off))
        stack.enter_context(without_adapters(pipe, off, learning))
        yield off


def models(pipe) -> dict[str, nn.Module]:
    """The pipeline's models by name."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


@contextlib.contextmanager
def without_filters(pipe, off: list[str]) -> Iterator[None]:
    """No safety checker, which blackens pictures, and no watermark."""
    found = {name: vars(pipe).get(name) for name in ("safety_checker", "watermark")}
    found = {name: part for name, part in found.items() if part is not None}
    off += [name.replace("_", " ") for name in found]
    vars(pipe).update(dict.fromkeys(found))  # past the pipeline's own setter, which would forget where it was from
    try:
        yield
    finally:
        vars(pipe).update(found)


# --------------------------------------------------------------------------------------------- adapters


@contextlib.contextmanager
def without_adapters(pipe, off: list[str], semu: bool) -> Iterator[None]:
    """No foreign adapters, and no SEMU adapters either where these are to go."""
    layers = [
        (part, m) for part, model in models(pipe).items() for m in model.modules() if isinstance(m, BaseTunerLayer)
    ]
    if any(layer.merged for _, layer in layers):
        raise ValueError("an adapter is fused into the model's weights; take it out first: pipe.unfuse_lora()")
    layers = [(part, layer) for part, layer in layers if semu or not isinstance(layer, SemuLayer)]
    before = [(layer, list(layer.active_adapters), layer.disable_adapters) for _, layer in layers]
    on = [(part, name) for part, layer in layers if not layer.disable_adapters for name in held_and_active(layer)]
    off += [f"adapter {name} on the {part}" for part, name in dict.fromkeys(on)]
    # By its list, not by PEFT's switch: that makes what comes on again trainable, and would silence a new adapter.
    for layer, _, _ in before:
        layer._active_adapter, layer._disable_adapters = [], False
    try:
        yield
    finally:
        for layer, active, disabled in before:
            new = list(layer.active_adapters)
            layer._disable_adapters = disabled and not new
            layer._active_adapter = new if disabled and new else [*active, *(n for n in new if n not in active)]


def held_and_active(layer: BaseTunerLayer) -> list[str]:
    """Of its active adapters those that a layer has; diffusers names those of other layers, too."""
    return [name for name in layer.active_adapters if name in layer._all_available_adapter_names()]


@contextlib.contextmanager
def without_image_prompts(pipe, off: list[str]) -> Iterator[None]:
    """No IP-Adapter: the attention processors and the projection that it put into the denoiser."""
    model = denoiser(pipe)
    processors = dict(getattr(model, "attn_processors", {}))
    if not any("IPAdapter" in type(p).__name__ for p in processors.values()):
        yield
        return
    off.append(f"IP-Adapter on the {component(pipe)}")
    projections = {
        n: getattr(model, n) for n in ("encoder_hid_proj", "image_proj") if getattr(model, n, None) is not None
    }
    kind = getattr(model.config, "encoder_hid_dim_type", None)
    model.set_attn_processor({name: without_image(p) for name, p in processors.items()})
    for name in projections:
        setattr(model, name, None)
    model.config.encoder_hid_dim_type = None
    try:
        yield
    finally:
        model.set_attn_processor(processors)
        for name, part in projections.items():
            setattr(model, name, part)
        model.config.encoder_hid_dim_type = kind


def without_image(processor):
    """The processor that diffusers puts back when it unloads an IP-Adapter."""
    from diffusers.models import attention_processor
    from diffusers.models.transformers import transformer_flux

    name = type(processor).__name__
    if "IPAdapter" not in name:
        return processor
    if name.startswith("Flux"):
        return transformer_flux.FluxAttnProcessor()
    return attention_processor.JointAttnProcessor2_0() if "Joint" in name else attention_processor.AttnProcessor2_0()


@contextlib.contextmanager
def without_shortcuts(pipe, off: list[str]) -> Iterator[None]:
    """No FreeU, which scales the UNet's features, and no cache, which leaves out some of the denoiser's steps."""
    model, blocks = denoiser(pipe), list(getattr(denoiser(pipe), "up_blocks", []))
    scales = [(block, {name: getattr(block, name, None) for name in FREEU}) for block in blocks]
    scales = [(block, own) for block, own in scales if any(own.values())]
    cache = getattr(model, "_cache_config", None)
    off += ["FreeU"] if scales else []
    off += [f"cache ({type(cache).__name__.removesuffix('Config')})"] if cache is not None else []
    for block, own in scales:
        vars(block).update(dict.fromkeys(own))
    if cache is not None:
        model.disable_cache()
    try:
        yield
    finally:
        for block, own in scales:
            vars(block).update(own)
        if cache is not None:
            model.enable_cache(cache)


# --------------------------------------------------------------------------------------------- offload


def offloaded(model: nn.Module) -> str:
    """How a model is offloaded by accelerate's hooks: "sequential", "model", or "" where it is not."""
    hooks = [hook for module in model.modules() for hook in hooks_of(module)]
    if any(getattr(hook, "offload", False) for hook in hooks):
        return "sequential"
    return "model" if any(type(hook).__name__ in ("CpuOffload", "UserCpuOffloadHook") for hook in hooks) else ""


@contextlib.contextmanager
def without_hooks(pipe, off: list[str]) -> Iterator[None]:
    """Whole models, on the device that the hooks took them to."""
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    if getattr(pipe, "hf_device_map", None):
        raise ValueError("the model is spread over devices (device_map); load it onto one, or offload it")
    kinds = {name: kind for name, model in models(pipe).items() if (kind := offloaded(model))}
    if not kinds:
        yield
        return
    off.append(f"{next(iter(kinds.values()))} offload")
    device = torch.device(pipe._execution_device)
    for name in kinds:
        remove_hook_from_module(getattr(pipe, name), recurse=True)
    pipe._all_hooks = []
    pipe.to(device)
    try:
        yield
    finally:
        pipe.to("cpu")
        if "model" in kinds.values():
            pipe.enable_model_cpu_offload(device=device)
        else:
            for name in kinds:  # as diffusers does
                model = getattr(pipe, name)
                cpu_offload(model, device, offload_buffers=len(model._parameters) > 0)
