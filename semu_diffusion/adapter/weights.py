"""Adapter files: save, check, load, and the exact LoRA of U R V^T. Safetensors only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from .base_layers import matrix_shape
from .config import SemuConfig, listed, without_paths
from .files import save_atomic, write_atomic
from .layer import SemuLayer, layer_name
from .model import find_layers
from .updates import STORED, Update, check_precision, rounded, widened

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LORA = "pytorch_lora_weights.safetensors"
PREFIX = "base_model.model."  # PEFT's own; a file without it loads silently as a no-op in PeftModel.from_pretrained
DTYPES = ("F64", "F32", "F16", "BF16", "I8")  # what U, R and V may be stored as; R not in int8
MOST_JSON = 2**24  # bytes; the config of an adapter for thousands of layers has a hundredth of it
MOST_NORM = 1e30  # of U, R, V and their product; far below where fp32 overflows, far above any weight


def semu_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, SemuLayer]:
    """The layers that carry an adapter of rank >= 1, by name without PEFT's prefix."""
    found = ((layer_name(k.removeprefix(PREFIX)), m) for k, m in model.named_modules() if isinstance(m, SemuLayer))
    return {name: layer for name, layer in found if layer.r.get(adapter_name)}


def update_of(layer: SemuLayer, adapter_name: str = "default") -> Update:
    """U, R and V of an adapter in a layer, at full strength."""
    return Update(*(getattr(layer, f"semu_{part}")[adapter_name].detach() for part in "URV"))


def adapter_state(model: nn.Module, adapter_name: str = "default", precision: str = "fp32") -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that PEFT, transformers and `load_adapter` read; see `save_adapter`."""
    state = {}
    for name, layer in semu_layers(model, adapter_name).items():
        narrow = rounded(*update_of(layer, adapter_name), STORED[precision], name)
        state |= {f"{PREFIX}{name}.semu_{part}": tensor for part, tensor in narrow._asdict().items()}
    return state


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    adapter_name: str = "default",
    about: dict | None = None,
    precision: str = "fp32",
) -> Path:
    """Writes `adapter_model.safetensors` (header: the config) and `adapter_config.json`; returns the folder.

    Args:
        about: Facts to store as `config.about`; `base_model` among them becomes base_model_name_or_path. Of paths on
            this machine only the last name is kept.
        precision: Of U and V: "fp32" writes what is there; "fp16" and "bf16" halve the file, "int8" halves it again.
            R is in fp32 in any case.

    Raises:
        ValueError: the model has no such adapter, an unknown precision, or one that cannot hold the values.
    """
    check_precision(precision)
    state = adapter_state(model, adapter_name, precision)
    if not state:
        raise ValueError(f"the model has no SEMU adapter named {adapter_name!r}")
    check_whole(model.peft_config[adapter_name], "save it by PeftModel.save_pretrained")
    config = SemuConfig(**{**model.peft_config[adapter_name].to_dict(), "peft_type": None, "inference_mode": True})
    config.ranks = {name: layer.r[adapter_name] for name, layer in semu_layers(model, adapter_name).items()}
    config.target_modules = list(config.ranks)
    config.about = without_paths({**config.about, **(about or {}), "precision": precision})
    config.base_model_name_or_path = config.about.get("base_model", without_paths(config.base_model_name_or_path))
    text = json.dumps({k: v for k, v in config.to_dict().items() if v is not None}, indent=2)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_atomic(state, folder / WEIGHTS, {"semu_config": text})
    write_atomic(folder / CONFIG, text)
    return folder


def check_whole(config: SemuConfig, way: str) -> None:
    """ValueError where modules are trained besides U R V^T, which these files do not hold."""
    if config.modules_to_save:
        named = ", ".join(config.modules_to_save)
        raise ValueError(f"the adapter has modules_to_save ({named}), and U, R and V are not all of it; {way}")


def config_from_json(text: str | bytes, source: str) -> SemuConfig:
    """The config of an adapter file or its JSON. ValueError where it is not one."""
    try:
        if len(text) > MOST_JSON:
            raise ValueError(f"it has {len(text):,} characters")
        values = json.loads(text)
        known = SemuConfig.__dataclass_fields__
        if values.get("peft_type") != "SEMU":
            raise ValueError(f"its peft_type is {values.get('peft_type')!r}, not SEMU")
        config = SemuConfig(**{k: v for k, v in values.items() if k in known and k != "peft_type"})
        check_about(config.about)
        return config
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{source} is not a SEMU config: {' '.join(str(error).split())[:300]}") from None


def check_about(about: dict) -> None:
    """The facts that others rely on have the type they expect; a single text becomes a list of one.

    Raises:
        ValueError, TypeError, AttributeError: where they have not.
    """
    for key in ("concept", "before"):
        texts = listed(about.get(key))
        if not isinstance(texts, list) or not all(isinstance(c, str) for c in texts):
            raise ValueError(f"its {key} is no list of texts")
        if key in about:
            about[key] = texts
    if not isinstance(about.get("base_model") or "", str):
        raise ValueError("its base_model is no text")


def read_config(path: str | Path) -> SemuConfig:
    """The config beside the weights in a folder, or in the header of a `.safetensors` file.

    Raises:
        ValueError: nothing there, or not a SEMU adapter.
    """
    path = Path(path)
    if path.is_dir() and (path / CONFIG).is_file():
        with open(path / CONFIG, "rb") as file:
            return config_from_json(file.read(MOST_JSON + 1), str(path / CONFIG))
    file = path / WEIGHTS if path.is_dir() else path
    metadata = header_of(file)
    if "semu_config" not in metadata:
        raise ValueError(f"{file} has no SEMU config in its header; is it an adapter written by semu-diffusion?")
    return config_from_json(metadata["semu_config"], str(file))


def open_weights(file: Path):
    """`safe_open` that ends in one clear line for a missing, empty, cut-off or foreign file."""
    if not file.is_file():
        raise ValueError(f"no adapter at {file}: expected a folder with {WEIGHTS}, or such a file")
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is not a whole safetensors file ({error}); download or write it again") from None


def header_of(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file. ValueError as `open_weights`."""
    with open_weights(file) as weights:
        return weights.metadata() or {}


def check_fits(model: nn.Module, config: SemuConfig, shapes: dict[str, tuple[int, ...]], source: str) -> None:
    """Compares names and shapes of a file with the model, before anything is allocated.

    Raises:
        ValueError: names the first layer that does not fit.
    """
    if not config.ranks:
        raise ValueError(f"{source} names no adapted layer")
    layers = find_layers(model, SemuConfig(ranks=config.ranks))  # by exact name: no regex of a file is ever run
    base = str(config.about.get("base_model") or "")
    other = f"{source} is for another model{f', {base!r}' if base else ''}"
    for name, r in config.ranks.items():
        if name not in layers:
            raise ValueError(f"{other}: this one has no Linear or Conv2d layer {name}")
        m, n = matrix_shape(layers[name])
        for part, expected in (("U", (m, r)), ("R", (r, r)), ("V", (n, r))):
            shape = shapes.get(f"{PREFIX}{name}.semu_{part}")
            if shape is None:
                raise ValueError(f"{source} lacks the {part} of layer {name}; it is incomplete")
            if tuple(shape) != expected:
                problem = f"the {part} of layer {name} is {tuple(shape)}, here it must be {expected}"
                raise ValueError(f"{other}: {problem}")
        if r > min(m, n):
            raise ValueError(f"{source} has rank {r} for layer {name}, whose weight ({m}, {n}) has at most {min(m, n)}")
    named = {f"{PREFIX}{name}.semu_{part}" for name in config.ranks for part in "URV"}
    extra = next((key for key in shapes if key not in named), None)
    if extra:
        raise ValueError(f"{source} holds {extra}, which its config does not name")


def check_finite(U: torch.Tensor, R: torch.Tensor, V: torch.Tensor, name: str, source: str) -> None:
    """ValueError unless U (m, r), R (r, r), V (n, r) and every entry of U R V^T are finite, in fp32 too."""
    product = 1.0
    for part, values in (("U", U), ("R", R), ("V", V)):
        norm = values.double().norm().item()
        product *= max(norm, 1.0)
        if not norm < MOST_NORM:
            raise ValueError(f"{source}: {name}.semu_{part} holds values that are not finite numbers, or far too large")
    if not product < MOST_NORM:  # |entry| <= ||U|| ||R|| ||V||
        raise ValueError(f"{source}: the update of {name} is far too large")


def read_tensors(file: Path, model: nn.Module, config: SemuConfig) -> dict[str, dict[str, torch.Tensor]]:
    """Layer -> {"U": (m, r), "R": (r, r), "V": (n, r)}, fp32, of a file whose sizes were first compared with the model.

    Raises:
        ValueError: damaged, with values that are not finite, or made for another model.
    """
    with open_weights(file) as weights:
        slices = {key: weights.get_slice(key) for key in weights.keys()}  # noqa: SIM118
        check_fits(model, config, {key: tuple(part.get_shape()) for key, part in slices.items()}, str(file))
        for key, part in slices.items():
            if part.get_dtype() not in DTYPES[: -1 if key.endswith("R") else None]:
                raise ValueError(f"{file}: {key} holds values of type {part.get_dtype()}, not finite numbers")
        stored = {k: [weights.get_tensor(f"{PREFIX}{k}.semu_{p}") for p in "URV"] for k in config.ranks}
    layers = {name: widened(*parts)._asdict() for name, parts in stored.items()}
    for name, parts in layers.items():
        check_finite(**parts, name=name, source=str(file))
    return layers


def read_adapter(model: nn.Module, path: str | Path) -> tuple[SemuConfig, dict[str, dict[str, torch.Tensor]]]:
    """Config and tensors of a saved adapter, all of it compared with the model, which stays as it is.

    Args:
        path: The folder that `save_adapter` wrote, or its `.safetensors` file.

    Raises:
        ValueError: file missing, damaged, with non-finite values, or made for another model.
    """
    path = Path(path)
    config = read_config(path)
    check_whole(config, f"load {path} by PeftModel.from_pretrained")
    return config, read_tensors(path / WEIGHTS if path.is_dir() else path, model, config)


def put_adapter(
    model: nn.Module,
    config: SemuConfig,
    layers: dict[str, dict[str, torch.Tensor]],
    adapter_name: str = "default",
    trainable: bool = False,
) -> None:
    """Injects an adapter with these U, R and V by layer, and makes it active; frozen unless R shall be trainable."""
    config.inference_mode = not trainable
    config.ranks = {name: parts["R"].shape[0] for name, parts in layers.items()}
    config.target_modules, config.exclude_modules = list(config.ranks), None  # exact names, no pattern of a file
    inject(model, config, adapter_name)
    for name, layer in semu_layers(model, adapter_name).items():
        layer.set_basis(adapter_name, **layers[name])
        layer.semu_R[adapter_name].requires_grad_(trainable)


def load_adapter(
    model: nn.Module, path: str | Path, adapter_name: str = "default", trainable: bool = False
) -> SemuConfig:
    """`read_adapter`, then `put_adapter` on the model (diffusers, transformers or any nn.Module).

    Raises:
        ValueError: as `read_adapter`; the model is as it was.
    """
    config, layers = read_adapter(model, path)
    put_adapter(model, config, layers, adapter_name, trainable)
    return config


def inject(model: nn.Module, config: SemuConfig, adapter_name: str = "default") -> None:
    """`model.add_adapter` where the library has it (diffusers, transformers), else PEFT's own injection.

    Adapters that are on stay on beside the new one, where the libraries would switch them off.

    Raises:
        ValueError: an adapter is merged into the weights; the libraries would take it out in silence.
    """
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    if any(layer.merged for layer in layers):
        raise ValueError("an adapter is fused into the model's weights; take it out first: pipe.unfuse_lora()")
    active = [(layer, list(layer.active_adapters)) for layer in layers]
    trained = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    if hasattr(model, "add_adapter"):
        model.add_adapter(config, adapter_name=adapter_name)
    else:
        inject_adapter_in_model(config, model, adapter_name)
        model.peft_config = {**getattr(model, "peft_config", {}), adapter_name: config}
    for layer, names in active:
        new = [adapter_name] if isinstance(layer, SemuLayer) and adapter_name in layer.r else []
        layer._active_adapter = [name for name in names if name != adapter_name] + new
    for parameter, flag in trained:
        parameter.requires_grad_(flag)


def beyond_lora(layer: nn.Module) -> bool:
    """Whether a layer is a convolution whose update PEFT's LoRA cannot express, or would get wrong."""
    if not isinstance(layer, nn.Conv2d):
        return False
    return layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros"


def lora_factors(model: nn.Module, adapter_name: str = "default") -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The exact LoRA of each layer: A = V^T (r, n), B = U R (m, r), shaped for the layer; alpha = rank.

    Raises:
        ValueError: a convolution with groups, dilation or padding that PEFT's LoRA would get wrong.
    """
    factors = {}
    for name, layer in semu_layers(model, adapter_name).items():
        A, B = layer.semu_V[adapter_name].T, layer.left(adapter_name)
        conv = layer.get_base_layer()
        if isinstance(conv, nn.Conv2d):
            if beyond_lora(conv):
                raise ValueError(
                    f"LoRA cannot express {name}: a convolution with groups, dilation or {conv.padding_mode} padding"
                )
            A, B = A.reshape(-1, *conv.weight.shape[1:]), B[:, :, None, None]
        factors[name] = (A.detach().contiguous(), B.detach().contiguous())
    return factors


def lora_metadata(factors: dict[str, tuple[torch.Tensor, torch.Tensor]], optional: str = "") -> dict:
    """LoraConfig arguments with exact per-layer ranks; diffusers 0.35 mis-scales varying ranks without them.

    Args:
        optional: A prefix that a layer's name may have or lack, as it changes with the version of transformers.
    """
    prefix = f"({re.escape(optional)})?" if optional else ""
    ranks = {f"^{prefix}{name.removeprefix(optional)}": A.shape[0] for name, (A, _) in factors.items()}
    r = max(ranks.values())
    return {
        "r": r,
        "lora_alpha": r,
        "target_modules": [name.removeprefix(optional) for name in factors],
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }
