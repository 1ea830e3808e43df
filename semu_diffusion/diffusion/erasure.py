"""Erases concepts from a pipeline: forget latents -> gradient -> bases -> training R -> adapter folder."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..adapter import SemuConfig
from ..adapter.subspace import Basis, find_bases, install_bases
from ..adapter.weights import inject, save_adapter, semu_layers, write_atomic
from .concepts import Pair, Vocabulary, forget_pairs, keep_prompts, vocabulary_of
from .config import TARGETS, EraseConfig
from .families import StableDiffusion, family_of
from .pipeline import load_pipeline, model_path, save_lora
from .states import Contexts, States, draw_records, fingerprint, gather, noised_images
from .trainer import Progress, Trainer

WORK = ".work"  # states and checkpoint of a run under way; removed when it is done
VERSIONS = ("semu-diffusion", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


class Silent:
    """Reports to nobody; `semu_diffusion.display.Display` shows the same calls."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins."""

    def advance(self, count: int = 1) -> None:
        """Part of it is done."""

    def ranks(self, bases: dict[str, Basis]) -> None:
        """The bases are known."""

    def row(self, row: dict) -> None:
        """A training step is done."""


@dataclass
class Erasure:
    """What `erase` did: the pipeline carries the adapter, the folder (if any) holds the files."""

    pipe: object
    config: EraseConfig
    progress: Progress
    facts: dict = field(default_factory=dict)
    folder: Path | None = None


def erase(pipe, concept: str | list[str], output: str | Path | None = None, **options) -> Erasure:
    """Erases concepts from a Stable Diffusion pipeline (or a folder, Hub id or embedded name) and leaves the adapter on.

        erase("pictograms", "cigarette", output="no-cigarette")
        erase(pipe, ["knife", "sepia style"], anchor="random")

    Args:
        concept: A word, "... style", a .txt file of prompts, or several of these.
        output: Folder for the adapter, its LoRA and results.json; None writes nothing.
        **options: Fields of `EraseConfig`; besides `overwrite`, `resume`, `reporter`, `device`.

    Raises:
        ValueError: bad options, an output folder in use, an unknown model.
        FloatingPointError: the loss became NaN; the last checkpoint is kept.
    """
    run = {k: options.pop(k) for k in ("overwrite", "resume", "reporter", "device") if k in options}
    return run_erasure(pipe, EraseConfig(concept=concept, **options), output, **run)


def run_erasure(
    pipe,
    config: EraseConfig,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    reporter: Silent | None = None,
    device: str | None = None,
) -> Erasure:
    """`erase` with a config; see there."""
    started, reporter = time.time(), reporter or Silent()
    name = pipe if isinstance(pipe, str) else getattr(pipe, "name_or_path", "") or pipe.config.get("_name_or_path", "")
    vocabulary = vocabulary_of(model_path(str(name)))
    pairs = [p for c in config.concept for p in forget_pairs(c, config.anchor, vocabulary, config.seed)]
    folder = prepare_folder(output, config, overwrite, resume) if output else None
    pipe = load_pipeline(pipe, device) if isinstance(pipe, str) else pipe
    family = family_of(pipe)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, log_with=config.tracker,
                              project_dir=folder and str(folder), gradient_accumulation_steps=1)  # fmt: skip
    set_seed(config.seed)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    work = folder / WORK if folder else None
    states = make_states(family, config, pairs, vocabulary, work, accelerator, reporter)
    bases = make_bases(family, config, states, accelerator, reporter)
    adapt(family, config, bases, name)
    progress = train(family, config, states, accelerator, work, reporter)
    freeze(family)
    facts = {"seconds": round(time.time() - started, 1), **measure(family, bases, progress)}
    erasure = Erasure(pipe, config, progress, facts, folder)
    if folder and accelerator.is_main_process:
        write_outputs(erasure, str(name))
    return erasure


def prepare_folder(output: str | Path, config: EraseConfig, overwrite: bool, resume: bool) -> Path:
    """The output folder, empty or to be resumed. ValueError where it is in use or cannot be resumed."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for --output")
    used = folder.is_dir() and any(folder.iterdir())
    saved = folder / WORK / "config.json"
    if resume and saved.is_file():
        if json.loads(saved.read_text()) != config.to_dict():
            raise ValueError(f"{folder} was begun with other options; repeat those, or use --overwrite")
        return folder
    if resume:
        raise ValueError(f"nothing to resume in {folder}; leave out --resume")
    if used and not overwrite:
        raise ValueError(f"{folder} is not empty; use --overwrite to replace it, or --resume to go on")
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / WORK).mkdir(parents=True)
    write_atomic(saved, json.dumps(config.to_dict()))
    return folder


# ------------------------------------------------------------------------------------------------ stages


def make_states(
    family: StableDiffusion,
    config: EraseConfig,
    pairs: list[Pair],
    vocabulary: Vocabulary,
    work: Path | None,
    accelerator: Accelerator,
    reporter: Silent,
) -> States:
    """Draws the records, or loads those of an earlier run; one process draws, the others read its file."""
    keep = config.keep or keep_prompts(config.concept, vocabulary, config.keep_latents, config.seed)
    forget = spread(pairs, config.latents, config.seed)
    steer = [k % 2 == 0 for k in range(len(forget))]
    kept = [Pair(keep[k % len(keep)], "") for k in range(config.keep_latents)]
    key = fingerprint(pairs=[vars(p) for p in forget], kept=[p.prompt for p in kept], config=config.to_dict())
    with accelerator.main_process_first():
        states = States.load(work / "states.safetensors", key) if work else None
        if states is None:
            reporter.stage("forget latents", len(forget) + len(kept))
            images = {kind: load_images(getattr(config, f"{kind}_images"), family) for kind in ("forget", "retain")}
            contexts = Contexts(family, [p for pair in (*forget, *kept) for p in (pair.prompt, pair.anchor)])
            arguments = (config.sampler_steps, config.guidance)
            drawn = draw_records(family, contexts, forget, steer, *arguments, config.seed, 32, reporter.advance)
            others = draw_records(family, contexts, kept, [True] * len(kept), *arguments, config.seed + 10**6, 32, reporter.advance)  # fmt: skip
            generator = torch.Generator().manual_seed(config.seed)
            given = lambda kind, pair: [] if images[kind] is None else noised_images(family, contexts, images[kind], pair, config.sampler_steps, generator)  # noqa: E731, E501
            drawn += given("forget", forget[0])
            states = gather(drawn, others, given("retain", kept[0]), contexts)
            if work and accelerator.is_main_process:
                states.save(work / "states.safetensors", key)
    return states


def spread(pairs: list[Pair], count: int, seed: int) -> list[Pair]:
    """`count` pairs, each about equally often, in a random order that the seed fixes."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    return [pairs[order[k % len(order)]] for k in range(count)]


def load_images(source: str | None, family: StableDiffusion) -> torch.Tensor | None:
    """Latents of a folder of pictures or of a `datasets` name. ValueError where there are none."""
    if source is None:
        return None
    import numpy as np
    from PIL import Image

    if Path(source).is_dir():
        files = sorted(f for f in Path(source).iterdir() if f.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        pictures = [Image.open(f) for f in files]
    else:
        try:
            from datasets import load_dataset
        except ImportError:
            raise ValueError("a dataset name needs the datasets package: pip install 'semu-diffusion[data]'") from None
        pictures = [row["image"] for row in load_dataset(source, split="train")]
    if not pictures:
        raise ValueError(f"no pictures in {source}: expected .png, .jpg or .webp files")
    _, height, width = family.latent_shape
    size = (width * family.pipe.vae_scale_factor, height * family.pipe.vae_scale_factor)
    arrays = [np.asarray(p.convert("RGB").resize(size, Image.Resampling.LANCZOS)) for p in pictures]
    return family.encode_images(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255)


def adapter_config(config: EraseConfig) -> SemuConfig:
    """The adapter's part of the choices."""
    pattern = {} if config.gamma_cross is None else {"attn2": config.gamma_cross}
    return SemuConfig(
        target_modules=TARGETS.get(config.target_modules, config.target_modules),
        gamma=config.gamma,
        gamma_pattern=pattern,
        max_rank=config.max_rank,
        geometry=config.geometry,
        damping=config.damping,
    )


def make_bases(family, config: EraseConfig, states: States, accelerator: Accelerator, reporter: Silent) -> dict[str, Basis]:  # fmt: skip
    """The bases from all forget records; every process computes the same sums, the first one's bases count."""
    reporter.stage("gradient and SVD")
    trainer = Trainer(family, config, states, accelerator, Path("."))
    model = family.model
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    bases = find_bases(model, adapter_config(config), trainer.forgetting_gradient(model), trainer.kept_forward(model))
    if accelerator.num_processes > 1:
        for basis in bases.values():
            for tensor in (basis.U, basis.S, basis.V):
                torch.distributed.broadcast(tensor, 0)
    reporter.ranks(bases)
    return bases


def adapt(family, config: EraseConfig, bases: dict[str, Basis], base_model: str) -> None:
    """Injects the adapter at R = 0; only R is trainable."""
    semu = adapter_config(config)
    semu.ranks = {name: basis.rank for name, basis in bases.items()}
    semu.about = {"base_model": base_model, "concept": config.concept, "anchor": config.anchor}
    inject(family.model, semu)
    install_bases(family.model, bases)


def train(family, config: EraseConfig, states: States, accelerator: Accelerator, work: Path | None, reporter: Silent) -> Progress:  # fmt: skip
    """Trains R; without an output folder the checkpoint goes to a temporary one."""
    import tempfile

    reporter.stage("training R", config.steps)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(family, config, states, accelerator, work or Path(scratch))
        if config.tracker:
            accelerator.init_trackers("semu")

        def report(row: dict) -> None:
            reporter.row(row)
            accelerator.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

        progress = trainer.train(report)
    accelerator.end_training()
    return progress


def freeze(family) -> None:
    """The adapter for use: frozen, eval mode."""
    family.model.requires_grad_(False)
    family.model.eval()


# ------------------------------------------------------------------------------------------------ results


def measure(family, bases: dict[str, Basis], progress: Progress) -> dict:
    """Sizes, ranks, energy and what is left of the concept."""
    layers = semu_layers(family.model)
    own = sum(p.numel() for n, p in family.model.named_parameters() if "semu_" not in n)
    trained = sum(layer.semu_R["default"].numel() for layer in layers.values())
    left = [row["left"] for row in progress.history if "left" in row]
    return {
        "steps": progress.step,
        "left": left[-1] if left else None,
        "layers": len(layers),
        "ranks": {name: layer.r["default"] for name, layer in layers.items()},
        "energy": {name: basis.energy for name, basis in bases.items()},
        "trained": trained,
        "trained_percent": 100 * trained / own,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Versions of everything that a result depends on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def write_outputs(erasure: Erasure, base_model: str) -> None:
    """Adapter, LoRA and results.json; the working files go away last."""
    folder, about = erasure.folder, {"base_model": base_model, **erasure.config.to_dict()}
    save_adapter(erasure.pipe.unet, folder, about=about)
    save_lora(erasure.pipe, folder)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "device": str(erasure.pipe.device)}
    results = {
        "base_model": base_model,
        "options": erasure.config.to_dict(),
        "training": erasure.facts,
        "history": erasure.progress.history,
        "versions": versions(),
        "machine": machine,
    }
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
    shutil.rmtree(folder / WORK, ignore_errors=True)
