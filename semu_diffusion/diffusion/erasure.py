"""Erases concepts from a pipeline: forget latents -> gradient -> bases -> training R -> adapter folder."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import nn

from ..adapter import SemuConfig
from ..adapter.config import erased_concepts
from ..adapter.gradients import LossScale
from ..adapter.model import find_layers
from ..adapter.subspace import Basis, find_bases, install_bases, without_basis
from ..adapter.weights import inject, write_atomic
from ..callbacks import Callback
from .concepts import strangers, vocabulary_of
from .config import TARGETS, EraseConfig
from .data import make_states
from .devices import Stage, compute_device, execution_device, module_bytes, modules_of, wake
from .families import family_of
from .footprint import measure as measure_footprint
from .footprint import probe
from .loading import Loading, check_device, default_device, load_pipeline
from .memory import Plan, budget, default_plan, host_room, make_plan
from .on_top import join_before, leave_before, load_before, train_beside
from .pipeline import base_name, denoiser, model_path
from .precision import left_out, loss_scale, make_accelerator
from .results import WORK, measure, write_outputs
from .states import States
from .trainer import Progress, Trainer


@dataclass
class Erasure:
    """What `erase` did: the pipeline carries the adapter, the folder (if any) holds the files."""

    pipe: object
    config: EraseConfig
    progress: Progress
    facts: dict = field(default_factory=dict)
    folder: Path | None = None


def erase(pipe, concept: str | list[str], output: str | Path | None = None, **options) -> Erasure:
    """Erases concepts from a pipeline (or a folder, Hub id or embedded name) and leaves the adapter on it.

        erase("pictograms", "cigarette", output="no-cigarette")
        erase(pipe, ["knife", "sepia style"], anchor="random")

    Args:
        concept: A word, "... style", a .txt file of prompts, or several of these.
        output: Folder for the adapter, its LoRA and results.json; None writes nothing.
        **options: Fields of `EraseConfig`; besides `overwrite`, `resume`, `callback`, `device`, `loading`.

    Raises:
        ValueError: bad options, an output folder in use, an unknown model.
        FloatingPointError: the loss became NaN; the last checkpoint is kept.
    """
    run = {k: options.pop(k) for k in ("overwrite", "resume", "callback", "device", "loading") if k in options}
    return run_erasure(pipe, EraseConfig(concept=concept, **options), output, **run)


def run_erasure(
    pipe,
    config: EraseConfig,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    callback: Callback | None = None,
    device: str | None = None,
    loading: Loading | None = None,
) -> Erasure:
    """`erase` with a config; see there."""
    started, callback = time.time(), callback or Callback()
    name = pipe if isinstance(pipe, str) else base_name(pipe)
    if isinstance(pipe, str):
        device = device or default_device()
        pipe = load_pipeline(pipe, device, loading=loading, placed=False)
    place = check_device(device) if device else execution_device(pipe)
    family, vocabulary = family_of(pipe, config.train), vocabulary_of(model_path(name))
    if family.empty is None and config.objective == "negative":
        raise ValueError(
            "the objective negative leads away from the empty prompt, which this model lacks; use redirect"
        )
    for word in strangers(config.concept, vocabulary):
        callback.warn(f"{word!r} is no word that this model is known to draw (its vocabulary.json has them); going on")
    pairs = family.pairs(config.concept, config.anchor, vocabulary, config.seed)
    folder = Path(output) if output else None
    accelerator = make_accelerator(config, folder, place)
    scale = loss_scale(accelerator, family.dtype)
    present = sum(module_bytes(m) for m in modules_of(pipe) if compute_device(m) == accelerator.device)
    room = budget(config, accelerator.device, present)
    family.stage = Stage(pipe, family, accelerator.device, room)
    if folder and accelerator.is_main_process:
        prepare_folder(folder, config, overwrite, resume, name)
    accelerator.wait_for_everyone()
    set_seed(config.seed)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    work = folder / WORK if folder else None
    before: list[str] = []
    try:
        if config.on_top_of:
            before = erased_concepts(load_before(pipe, config.on_top_of).about)
        family.stage.begin()
        with accelerator.autocast():
            config, plan = fitted(family, config, pairs[0].prompt, room)
        if plan.words:
            callback.stage(f"memory: {plan.words}")
        states = make_states(family, config, pairs, vocabulary, work, accelerator, callback, plan.drawn)
        wake(family.model)
        bases = make_bases(family, config, states, accelerator, callback, scale, plan)
    except ValueError:  # the options do not fit the model or the pictures: nothing has begun
        if folder and accelerator.is_main_process:
            discard(folder)
        leave_before(pipe)
        family.stage.end(pipe)
        raise
    adapt(family, config, bases, name)
    if config.on_top_of:
        train_beside(family.model)
    progress = train(family, config, states, accelerator, work, callback, scale, plan)
    freeze(family)
    family.stage.end(pipe)
    fits = {"memory": plan.words} if plan.words else {}
    facts = {"seconds": round(time.time() - started, 1), **measure(family, bases, progress), **fits, "before": before}
    if config.on_top_of:
        join_before(pipe)
        freeze(family)
    erasure = Erasure(pipe, config, progress, facts, folder)
    if folder and accelerator.is_main_process:
        write_outputs(erasure, name)
    return erasure


def prepare_folder(output: str | Path, config: EraseConfig, overwrite: bool, resume: bool, model: str = "") -> Path:
    """The output folder, empty or to be resumed. ValueError where it is in use or cannot be resumed."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for --output")
    used = folder.is_dir() and any(folder.iterdir())
    saved, begun = folder / WORK / "config.json", {"model": model, **config.to_dict()}
    if resume and saved.is_file():
        if json.loads(saved.read_text()) != begun:
            raise ValueError(f"{folder} was begun with other options; repeat those, or use --overwrite")
        return folder
    if resume:
        raise ValueError(f"nothing to resume in {folder}; leave out --resume")
    if used and not overwrite:
        raise ValueError(f"{folder} is not empty; use --overwrite to replace it, or --resume to go on")
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / WORK).mkdir(parents=True)
    write_atomic(saved, json.dumps(begun))
    return folder


def discard(folder: Path) -> None:
    """Takes away what `prepare_folder` made, and the folder where nothing else is in it."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


# ------------------------------------------------------------------------------------------------ stages


def fitted(family, config: EraseConfig, prompt: str, room: float | None) -> tuple[EraseConfig, Plan]:
    """The choices that fit into so many bytes; ValueError where none do."""
    if room is None:
        return config, default_plan(config)
    semu = adapter_config(config)
    if not find_layers(family.model, semu):
        raise ValueError("the model has no Linear or Conv2d layer that target_modules names")
    foot = measure_footprint(family.model, semu, probe(family, prompt), family.device)
    models = {id(m): m for m in (family.model, denoiser(family.pipe))}.values()
    host = None if family.device.type == "cpu" else host_room()
    fixed = sum(map(module_bytes, modules_of(family.pipe) if host is None else models))
    return make_plan(config, fixed, foot, room, host)


def adapter_config(config: EraseConfig) -> SemuConfig:
    """The adapter's part of the choices."""
    pattern = {} if config.gamma_cross is None else {"attn2": config.gamma_cross}
    return SemuConfig(
        target_modules=TARGETS.get(config.target_modules, config.target_modules),
        gamma=config.gamma,
        gamma_pattern=pattern,
        max_rank=config.max_rank,
        geometry=config.geometry,
    )


def make_bases(
    family,
    config: EraseConfig,
    states: States,
    accelerator: Accelerator,
    callback: Callback,
    scale: LossScale | None = None,
    plan: Plan | None = None,
) -> dict[str, Basis]:
    """The bases from all forget records; every process computes the same sums, the first one's bases count."""
    callback.stage("gradient and SVD")
    trainer = Trainer(family, config, states, accelerator, Path("."), scale, plan)
    model, semu = family.model, adapter_config(config)
    if config.gradient_checkpointing:
        named = "gradient_checkpointing_enable" if config.train == "text_encoder" else "enable_gradient_checkpointing"
        getattr(model, named)()  # transformers' name and diffusers'
    bases = find_bases(
        model, semu, trainer.forgetting_gradient(model), trainer.kept_forward(model), config.sketch,
        scale=scale, on_host=trainer.plan.on_host,
    )  # fmt: skip
    bases = broadcast_object_list([bases])[0]  # signs and rounding may differ by device
    callback.ranks(bases)
    targeted = find_layers(model, semu)
    if missing := without_basis(targeted, bases):
        callback.warn(left_out(missing, len(targeted)))
    return bases


def adapt(family, config: EraseConfig, bases: dict[str, Basis], base_model: str) -> None:
    """Injects the adapter at R = 0; only R is trainable."""
    semu = adapter_config(config)
    semu.ranks = {name: basis.rank for name, basis in bases.items()}
    semu.about = {"base_model": base_model, "concept": config.concept, "anchor": config.anchor}
    inject(family.model, semu)
    install_bases(family.model, bases)


def train(
    family,
    config: EraseConfig,
    states: States,
    accelerator: Accelerator,
    work: Path | None,
    callback: Callback,
    scale: LossScale | None = None,
    plan: Plan | None = None,
) -> Progress:
    """Trains R; without an output folder the checkpoint goes to a temporary one."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(family, config, states, accelerator, work or Path(scratch), scale, plan)
        callback.stage("training R", trainer.end(Progress()))
        if config.tracker:
            accelerator.init_trackers("semu")

        def report(row: dict) -> None:
            callback.row(row)
            accelerator.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

        progress = trainer.train(report)
    accelerator.end_training()
    return progress


def freeze(family) -> None:
    """The adapter for use: frozen, eval mode."""
    family.model.requires_grad_(False)
    family.model.eval()
