"""A pipeline from the embedded name, a folder, one file or the Hub, as diffusers users expect it: the family is looked
at before a weight is read, and whatever goes wrong ends in one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from ..adapter.files import disk_error
from .files import check_configs, check_shards, choose_variant, read_index, stored_dtype, variant_of
from .loading_choices import Loading
from .pipeline import SHIPPED, model_path
from .processes import number, own_gpu
from .quantise import quantisation
from .whole import check_whole

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
UNUSED = ("safety_checker", "image_encoder")  # components that neither erasing nor drawing by text needs
Fits = Callable[[type], None]
REPO = re.compile(r"[\w.-]+/[\w.-]+")


class DoesNotFit(ValueError):
    """A pipeline of a class that whoever asked for it cannot use."""


def load_pipeline(
    model: str,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    loading: Loading | None = None,
    whole: bool = False,
    placed: bool = True,
    fits: Fits = lambda kind: None,
    **options,
):
    """A diffusers pipeline from the embedded name, a folder, a single `.safetensors` file, or a Hub id.

        load_pipeline("stabilityai/stable-diffusion-xl-base-1.0", variant="fp16", offload="model")

    Args:
        device: By default a GPU if there is one.
        dtype: By default that of each component's files, on a CPU fp32, which is quicker there; the embedded model
            computes in fp32 everywhere. Parts that a model keeps in fp32 stay so.
        loading: All further options at once; `options` are its fields.
        placed: False leaves the parts on the CPU, for `run_erasure`, which brings each when it is needed.
        fits: Is asked with the class of the pipeline before a weight is read; raises DoesNotFit against it.
        whole: With the components that erasing never uses, such as a safety checker, to write them again.

    Raises:
        ValueError: nothing there, no diffusers pipeline, none that can be erased from, files missing or damaged, a
            package missing, no right to it; always in one line.
    """
    loading = loading or Loading(**{**({} if dtype is None else {"dtype": dtype}), **options})
    device, path = check_device(device), model_path(model)
    if loading.offload != "none" and device.type == "cpu":
        raise ValueError(f"--offload {loading.offload} keeps idle parts on the CPU, and this run is on it already")
    if path.endswith((".safetensors", ".ckpt")):
        if loading.quantize:
            raise ValueError(f"--quantize is for a diffusers folder or a Hub id, and {model} is a single file")
        pipe = load_single_file(Path(path), single_dtype(Path(path), device, loading), fits)
    else:
        pipe = load_folder(model, find_folder(model, path, loading, whole, fits), device, loading, whole)
    return place(pipe, device, loading.offload) if placed or loading.offload != "none" else pipe


def place(pipe, device: torch.device, offload: str):
    """The pipeline on its device, or with the hooks that bring its parts there."""
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload == "group":
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
    else:
        pipe.to(device)  # no dtype here: it would take parts along that a model keeps in fp32
    return pipe


# --------------------------------------------------------------------------------------------- folders


def find_folder(model: str, path: str, loading: Loading, whole: bool, fits: Fits = lambda kind: None) -> Path:
    """The local folder of a model, downloaded where it is a Hub id, and known to be of a family."""
    folder = Path(path)
    if folder.exists() or REPO.fullmatch(path) is None or path.startswith("."):
        folder = folder / (loading.subfolder or "")
        if folder.is_dir() and not (folder / "model_index.json").is_file():
            raise ValueError(f"{model} is a folder without model_index.json, so it is no diffusers pipeline")
        if not folder.is_dir():
            where = f"{model}/{loading.subfolder}" if loading.subfolder else model
            raise ValueError(f"no model at {where}: expected a diffusers folder, a Hub id like user/name, or "
                             f"one of {', '.join(SHIPPED)}")  # fmt: skip
        check_family(read_index(folder / "model_index.json"), model, fits)
        return folder
    return download(path, loading, whole, fits)


def check_family(index: dict, model: str, fits: Fits = lambda kind: None) -> None:
    """ValueError, with the families that are known, unless the class of an index is of one of them, and fits."""
    import diffusers

    from .families import known_families, takes

    name = index.get("_class_name")
    if not isinstance(name, str) or not hasattr(diffusers, name):
        known = f"diffusers {diffusers.__version__}"
        raise ValueError(f"{model} names no pipeline of {known} (its _class_name is {name!r}); a newer one may have it")
    if takes(index):
        return fits(getattr(diffusers, name))
    raise ValueError(f"{model} is a {name}, not a family that can be erased from; known: {known_families()}")


def download(repo: str, loading: Loading, whole: bool, fits: Fits = lambda kind: None) -> Path:
    """The folder in the cache that a model of the Hub was downloaded to, its index first."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    inside = f"{loading.subfolder}/" if loading.subfolder else ""
    try:
        file = Path(hf_hub_download(repo, f"{inside}model_index.json", **loading.hub))
        index = read_index(file)
        check_family(index, repo, fits)
        if loading.local_files_only:
            return file.parent
        if inside:
            return Path(snapshot_download(repo, allow_patterns=[f"{inside}*"], **loading.hub)) / inside
        files = HfApi().list_repo_files(repo, revision=loading.revision, token=loading.token)
        variant = choose_variant(files, loading.variant, repo)
        return Path(
            DiffusionPipeline.download(
                repo, variant=variant, use_safetensors=True, **unused(index, whole), **loading.hub
            )
        )
    except DoesNotFit:
        raise
    except Exception as error:  # of the Hub's client, its HTTP library and diffusers, which have no common base
        raise disk_error(error) or explained(error, repo) from None


def unused(index: dict, whole: bool) -> dict:
    """Arguments that keep diffusers from loading components that erasing never uses."""
    left = {} if whole else {name: None for name in UNUSED if name in index}
    return left | ({"requires_safety_checker": False} if "safety_checker" in left else {})


def load_folder(model: str, folder: Path, device: torch.device, loading: Loading, whole: bool):
    """The pipeline of a local folder that is known to be of a family."""
    import diffusers

    index = read_index(folder / "model_index.json")
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    variant = choose_variant(files, loading.variant, model)
    check_configs(folder)
    check_shards(folder, variant, model)
    wanted = "fp32" if model in SHIPPED and loading.dtype == "auto" else loading.dtype  # its files are only smaller so
    dtypes = component_dtypes(folder, index, variant, device, wanted)
    quantised = quantisation(loading.quantize, folder, index, dtypes)
    try:
        kind = getattr(diffusers, str(index["_class_name"]), diffusers.DiffusionPipeline)
        pipe = kind.from_pretrained(  # of the class itself, which knows what may be left out
            str(folder), variant=variant, use_safetensors=True, dtype=dtypes, **quantised, **unused(index, whole)
        )
    except Exception as error:  # of diffusers, transformers, safetensors and quantisers
        raise explained(error, model) from None
    check_weights(pipe, model)
    check_whole(pipe)
    return pipe


def check_weights(pipe, model: str) -> None:
    """ValueError where a part has weights that its files gave nothing for, as with another quantiser's config.json."""
    for name, part in pipe.components.items():
        empty = [k for k, v in part.state_dict().items() if v.is_meta] if isinstance(part, torch.nn.Module) else []
        if empty:
            raise ValueError(f"cannot load the model {model}: the files of its {name} lack {len(empty)} weights that "
                             f"its config.json asks for, {empty[0]} first; download it again")  # fmt: skip


# ---------------------------------------------------------------------------------------------- dtypes


def component_dtypes(
    folder: Path, index: dict, variant: str | None, device: torch.device, wanted: str
) -> dict[str, torch.dtype] | torch.dtype:
    """The dtype of each component: the wanted one, on a CPU fp32, else that of its files."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cpu":
        return torch.float32
    found = {}
    for name in index:
        files = [f for f in folder.glob(f"{name}/*.safetensors") if variant_of(f.name) == variant]
        found[name] = computed(stored_dtype(files or list(folder.glob(f"{name}/*.safetensors"))), device)
    return {**found, "default": torch.float32}


def computed(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What a device computes a stored type in: fp16 for bf16 on a GPU that is too old for it."""
    old = dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported()
    return torch.float16 if old else dtype


def single_dtype(file: Path, device: torch.device, loading: Loading) -> torch.dtype:
    """The dtype for a single file, as `component_dtypes`."""
    if loading.dtype != "auto":
        return DTYPES[loading.dtype]
    if device.type == "cpu" or not file.is_file() or file.suffix != ".safetensors":
        return torch.float32
    return computed(stored_dtype([file]), device)


# ---------------------------------------------------------------------------------------------- errors


def explained(error: Exception, model: str) -> ValueError:
    """What an error of the libraries means to the user, in one line."""
    from huggingface_hub import errors

    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
    known = (
        (errors.GatedRepoError, f"{model} is gated: accept its terms on https://huggingface.co/{model}, then "
                                "`hf auth login`, or give --token"),
        (errors.RepositoryNotFoundError, f"no model {model} on the Hub that this token may see"),
        (errors.RevisionNotFoundError, f"{model} has no such revision"),
        (errors.LocalEntryNotFoundError, f"cannot reach the Hub, and {model} is neither in the local cache nor a "
                                         "folder"),
        (errors.EntryNotFoundError, f"{model} has no model_index.json, so it is no diffusers pipeline"),
        (ImportError, f"{model} needs a package that is missing: {said}"),
        (MemoryError, f"{model} does not fit into memory; try --dtype bf16"),
    )  # fmt: skip
    for kind, text in known:
        if isinstance(error, kind):
            return ValueError(text)
    if isinstance(error, ValueError) and said.startswith(model):
        return error
    return ValueError(f"cannot load the model {model}: {said}")


# ---------------------------------------------------------------------------------------------- single files


def load_single_file(file: Path, dtype: torch.dtype, fits: Fits = lambda kind: None):
    """A pipeline from one checkpoint file in the layout of the original code, as Civitai has them.

    Such a file holds weights only. Configurations and tokenizers come from a diffusers folder of the same name without
    its ending, or from the folder that the file lies in; where neither is one, diffusers asks the Hub for those of
    the model that the file looks like.

    Raises:
        ValueError: no such file, a pickle, or a file that is not of such a model.
    """
    import diffusers

    if file.suffix != ".safetensors":
        raise ValueError(f"{file} may run code when it is read; convert it to .safetensors first")
    if not file.is_file():
        raise ValueError(f"no model at {file}: there is no such file")
    folder = next((f for f in (file.with_suffix(""), file.parent) if (f / "model_index.json").is_file()), None)
    options = {"dtype": dtype}
    try:
        if folder:
            index = read_index(folder / "model_index.json")
            check_family(index, str(file))
            kind = getattr(diffusers, index["_class_name"])
            options |= {"config": str(folder), "local_files_only": True}
        else:
            kind = single_file_kind(file)
        fits(kind)
        return kind.from_single_file(str(file), **options)
    except DoesNotFit:
        raise
    except Exception as error:  # of diffusers, transformers and safetensors
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = f"a diffusers folder {file.with_suffix('')} with the model's configurations may help"
        raise ValueError(f"cannot load {file} as a single-file checkpoint: {said}; {where}") from None


def single_file_kind(file: Path) -> type:
    """The pipeline class that fits the names of a checkpoint's weights; Stable Diffusion's where none is special."""
    import diffusers
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        names = set(weights.keys())
    marks = {
        "StableDiffusionXLPipeline": "conditioner.embedders.1.model.ln_final.weight",
        "StableDiffusion3Pipeline": "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias",
    }
    found = next((name for name, mark in marks.items() if mark in names), "StableDiffusionPipeline")
    return getattr(diffusers, found)


def default_device() -> str:
    """A GPU if there is one; of several processes on a machine each takes its own."""
    return own_gpu() if torch.cuda.is_available() else "cpu"


def check_device(name: str | None) -> torch.device:
    """The device of that name, by default a GPU if there is one, of several processes each its own.

    Raises:
        ValueError: this machine has no such device, or all processes are to take the same one.
    """
    if number("LOCAL_WORLD_SIZE", 1) > 1 and (name or "").startswith("cuda") and torch.cuda.is_available():
        if name not in ("cuda", own_gpu()):
            raise ValueError(f"of several processes each takes a GPU of its own; leave out --device {name}")
        name = own_gpu()
    try:
        device = torch.device(name or default_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device
