"""What the header of a LoRA file says: sd-scripts' fields, Stability's ModelSpec, and the adapter's own facts.

    ss_*         what A1111, Forge and Civitai read: kind of base model, ranks, name (kohya-ss/sd-scripts)
    sshs_*       hashes of the tensors, as sd-scripts computes them
    modelspec.*  title, architecture, description, trigger, hash (Stability-AI/ModelSpec 1.0.1)
    semu.*       concept, anchor, base model, and how it was trained

No date is among them: equal adapters have equal files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import torch

from ..adapter.files import data_of, file_order, header_of
from ..versions import OWN, versions
from .kohya import KohyaLayers
from .naming import concept_names, concepts_in, made_with, title_of
from .pipeline import adapted_parts, base_name, denoiser

# The facts of a config that a header repeats.
FACTS = (
    "concept", "method", "paper", "before", "anchor", "merged", "way", "weights", "energy", "parts", "gamma",
    "geometry", "objective", "steps", "seed", "compress", "precision",
)  # fmt: skip
STABILITY = "https://github.com/Stability-AI/generative-models"
# Kind of model -> what sd-scripts calls it, its ModelSpec architecture, and the code whose names the file has.
KINDS = {
    "sd1": ("sd_v1", "stable-diffusion-v1", "diffusers"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512", "diffusers"),
    "sd2_v": ("sd_v2_v", "stable-diffusion-v2-768-v", "diffusers"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", STABILITY),
    "flux": ("flux1", "flux-1-dev", "https://github.com/black-forest-labs/flux"),
    "flux_schnell": ("flux1", "flux-1-schnell", "https://github.com/black-forest-labs/flux"),
    "pixart": ("pixart", "pixart", "diffusers"),
}


def facts_of(pipe, adapter_name: str = "default") -> dict:
    """What the adapter of a pipeline says about itself; the base model where it does not is the pipeline's."""
    about = next(iter(adapted_parts(pipe, adapter_name).values())).peft_config[adapter_name].about
    return {**about, "base_model": about.get("base_model") or base_name(pipe)}


def own_facts(about: Mapping) -> dict[str, str]:
    """`semu.*`: the facts as text, base model and files of prompts without the folders of this machine."""
    given = {key: about.get(key) for key in FACTS if about.get(key) not in (None, "", [], {})}
    given |= {key: concept_names({key: given[key]}) for key in ("concept", "before") if key in given}
    text = {f"semu.{k}": v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in given.items()}
    return {**text, "semu.base_model": title_of(about["base_model"]), "semu.version": versions((OWN,))[OWN]}


def resolution_of(pipe) -> int | None:
    """Pixels of a side of the pictures that a model was made for, where its configuration says so."""
    size, scale = getattr(denoiser(pipe).config, "sample_size", None), getattr(pipe, "vae_scale_factor", None)
    size = size if isinstance(size, int) else getattr(pipe, "default_sample_size", None)
    return size * scale if isinstance(size, int) and scale else None


def exact_kind(pipe, kind: str) -> str:
    """A key of `KINDS`: with the prediction type of SD2 and the distillation of FLUX."""
    if kind == "sd2" and pipe.scheduler.config.get("prediction_type") == "v_prediction":
        return "sd2_v"
    return "flux_schnell" if kind == "flux" and not denoiser(pipe).config.guidance_embeds else kind


def data_hash(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a safetensors file's data, which is all of it but the header: sd-scripts' model hash."""
    digest = hashlib.sha256()
    for name in file_order(state):
        digest.update(data_of(state[name]))
    return digest.hexdigest()


def legacy_hash(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """The first 8 digits of SHA-256 over 64 kB after the first megabyte of a file with these metadata."""
    digest, place, begin, end = hashlib.sha256(), 0, 0x100000, 0x110000
    for piece in pieces(state, metadata):
        digest.update(piece[max(begin - place, 0) : max(end - place, 0)])
        place += len(piece)
    return digest.hexdigest()[:8]


def pieces(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file with these tensors and metadata, one piece after the other."""
    order = file_order(state)
    yield header_of({name: state[name] for name in order}, metadata)
    for name in order:
        yield data_of(state[name])


def described(about: Mapping) -> str:
    """What the adapter does, as a sentence."""
    anchor = "others of its kind" if about.get("anchor") == "random" else about.get("anchor")
    it = "them" if len(concept_names(about)) > 1 else "it"
    instead = f", and answers prompts for {it} with {anchor}" if anchor else ""
    made = f"{made_with(about)} adapter for {title_of(about['base_model'])}"
    return f"{made}: takes away {concepts_in(about)}{instead}."


def model_spec(pipe, kind: str | None, about: Mapping, implementation: str = "diffusers") -> dict[str, str]:
    """`modelspec.*` but for the hash."""
    size, scheduler = resolution_of(pipe), pipe.scheduler.config
    flow = "FlowMatch" in type(pipe.scheduler).__name__
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{KINDS[exact_kind(pipe, kind)][1]}/lora" if kind else None,
        "implementation": implementation,
        "title": f"{title_of(about['base_model'])} without {concepts_in(about)}",
        "description": described(about),
        "usage_hint": "Load it at strength 1; it needs no words in the prompt.",
        "trigger_phrase": "",  # an eraser works whenever it is loaded
        "tags": ", ".join([made_with(about).lower(), "unlearning", "concept erasure"]),
        "resolution": f"{size}x{size}" if size else None,
        "prediction_type": {"v_prediction": "v"}.get(scheduler.get("prediction_type"), "epsilon") if not flow else None,
        "merged_from": ", ".join(map(str, merged)) if isinstance(merged := about.get("merged"), list) else None,
    }
    return {f"modelspec.{key}": value for key, value in spec.items() if value is not None}


def network_facts(pipe, kind: str, layers: Mapping[str, tuple], about: Mapping, name: str) -> dict[str, str]:
    """`ss_*`: a rank that differs by layer is "Dynamic", as sd-scripts' own resizing calls it."""
    version, size = KINDS[exact_kind(pipe, kind)][0], resolution_of(pipe)
    rank = lambda pairs: str(ranks.pop()) if len(ranks := {len(A) for A, _ in pairs}) == 1 else "Dynamic"  # noqa: E731
    wide = [pair for pair in layers.values() if pair[0].ndim == 4 and pair[0].shape[2:] != (1, 1)]
    facts = {
        "ss_base_model_version": version,
        "ss_v2": str(kind == "sd2"),
        "ss_network_module": "networks.lora_flux" if kind == "flux" else "networks.lora",
        "ss_network_dim": rank(layers.values()),
        "ss_network_alpha": "1.0",
        "ss_network_args": json.dumps({"conv_dim": rank(wide), "conv_alpha": "1.0"} if wide else {}),
        "ss_output_name": name,
        "ss_sd_model_name": title_of(about["base_model"]),
        "ss_training_comment": described(about),
        "ss_resolution": str((size, size)) if size else None,
        "ss_steps": str(about["steps"]) if about.get("steps") else None,
        "ss_seed": str(about["seed"]) if about.get("seed") is not None else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def kohya_header(
    pipe, kind: str, layers: KohyaLayers, state: Mapping[str, torch.Tensor], about: Mapping, name: str
) -> dict[str, str]:
    """The whole header of a file in kohya's names; `name` is the file's without its ending."""
    network, digest = network_facts(pipe, kind, layers.factors, about, name), data_hash(state)
    left = {"semu.left_out": json.dumps(layers.left_out), "semu.left_out_energy": f"{layers.share:.4f}"}
    return {
        **network,
        "sshs_model_hash": digest,
        "sshs_legacy_hash": legacy_hash(state, network),
        **model_spec(pipe, kind, about, KINDS[exact_kind(pipe, kind)][2]),
        "modelspec.hash_sha256": f"0x{digest}",
        **own_facts(about),
        **(left if layers.left_out else {}),
    }


def lora_header(pipe, kind: str | None, state: Mapping[str, torch.Tensor], about: Mapping) -> dict[str, str]:
    """What diffusers' LoRA file says besides its ranks."""
    spec = {**model_spec(pipe, kind, about), "modelspec.hash_sha256": f"0x{data_hash(state)}"}
    return {**spec, **own_facts(about)}
