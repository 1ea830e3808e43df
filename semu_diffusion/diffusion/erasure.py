"""Erases concepts from a pipeline: forget latents -> gradient -> bases -> training R -> adapter folder."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import SafetensorError
from torch import nn

from ..adapter import SemuConfig
from ..adapter.claims import BEGUN, WORK, check_output, check_space, claimed, read_json
from ..adapter.config import erased_concepts
from ..adapter.gradients import LossScale
from ..adapter.model import find_layers
from ..adapter.shrink import shrink
from ..adapter.subspace import Basis, find_bases, install_bases, without_basis
from ..adapter.weights import inject, write_atomic
from ..callbacks import Callback
from .concepts import vocabulary_of
from .config import TARGETS, EraseConfig
from .data import make_states, states_bytes
from .devices import Stage, compute_device, execution_device, module_bytes, modules_of, wake
from .erasers.registry import OWN
from .erasers.run import check_fits, check_run, edit_with
from .families import family_of
from .footprint import measure as measure_footprint
from .footprint import probe, prompt_bytes
from .loading import Loading, check_device, default_device, load_pipeline
from .lora import beyond_reach
from .memory import Batches, budget, default_batches, host_room, plan_memory
from .on_top import join_before, leave_before, load_before, train_beside
from .pipeline import adapted_parts, base_name, denoiser, model_path
from .plain import plain
from .plan import Plan, make_plan
from .precision import left_out, loss_scale, make_accelerator, named_few
from .processes import check_processes, number, ranks_of, shard
from .results import measure, write_outputs
from .schedule import Progress
from .states import States
from .trainer import Trainer
from .truncation import make_small

OUTPUTS = 5  # files as large as the adapter: two checkpoints for a moment, then itself, its LoRA and its kohya file


@dataclass(frozen=True)
class Run:
    """What a run is told beside the config: where it writes, whether it goes on or begins anew, and who listens."""

    folder: Path | None
    overwrite: bool
    resume: bool
    keep_work: bool
    callback: Callback
    device: torch.device


@dataclass
class Erasure:
    """What `erase` did: the pipeline carries the adapter, the folder (if any) holds the files."""

    pipe: object
    config: EraseConfig
    progress: Progress
    facts: dict = field(default_factory=dict)
    folder: Path | None = None
    plan: Plan | None = None


def erase(pipe, concept: str | list[str], output: str | Path | None = None, **options: object) -> Erasure:
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
    keep_work: bool = False,
) -> Erasure:
    """`erase` with a config; see there.

    Args:
        keep_work: What a resumed run needs stays in the folder; `evaluation.finish` takes it away when all is done.
    """
    callback, name = callback or Callback(), pipe if isinstance(pipe, str) else base_name(pipe)
    check_processes(config, loading)
    check_run(config, resume)
    if isinstance(pipe, str):
        device = device or default_device()
        fits = partial(check_fits, config.method)
        pipe = load_pipeline(pipe, device, loading=loading, placed=False, fits=fits)
    place = check_device(device) if device else execution_device(pipe)
    with plain(pipe, learning=True, hooks=False) as off:  # hooks stay: what is offloaded may not fit at once
        if off:
            callback.warn(f"erased from the model itself, for the time of it without: {', '.join(off)}")
        run = Run(Path(output) if output else None, overwrite, resume, keep_work, callback, place)
        return erase_plain(pipe, name, config, run, off)


def erase_plain(pipe, name: str, config: EraseConfig, run: Run, off: list[str]) -> Erasure:
    """`run_erasure` on a pipeline that was made plain; `off` says what was taken off it."""
    started, folder = time.time(), run.folder
    family, vocabulary = family_of(pipe, config.train), vocabulary_of(model_path(name))
    if family.empty is None and config.objective == "negative":
        raise ValueError(
            "the objective negative leads away from the empty prompt, which this model lacks; use redirect"
        )
    accelerator = make_accelerator(config, folder, run.device)
    with claimed(folder) if folder and accelerator.is_main_process else contextlib.nullcontext():
        if folder and accelerator.is_main_process:
            prepare_folder(folder, config, run.overwrite, run.resume, name)
        accelerator.wait_for_everyone()
        set_seed(config.seed)
        erasure = Erasure(pipe, config, Progress(), {"taken_off": off}, folder)
        stages = erase_with if config.method == OWN else edit_with
        stages(erasure, name, family, vocabulary, accelerator, run)
        seconds = time.time() - started
        erasure.facts["seconds"] = round(seconds, 1) if seconds >= 10 else float(f"{seconds:.2g}")
        if folder and accelerator.is_main_process:
            write_outputs(erasure, name, run.callback.warn, run.keep_work)
    return erasure


def erase_with(erasure: Erasure, name: str, family, vocabulary, accelerator: Accelerator, run: Run) -> None:
    """From the plan of prompts to the trained adapter on the pipeline; fills in the erasure's plan, progress, facts."""
    pipe, config, folder, callback = erasure.pipe, erasure.config, erasure.folder, run.callback
    scale, device = loss_scale(accelerator, family.dtype), accelerator.device
    present = sum(module_bytes(m) for m in modules_of(pipe) if compute_device(m) == device)
    room = budget(config, device, present)
    if room is not None:  # all plan the same, by the one that has least
        room = min(ranks_of(accelerator).each(room))
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    family.ranks = ranks_of(accelerator)
    if family.ranks.sharded:
        shard(family, accelerator)
    family.stage = Stage(pipe, family, device, room)
    work, before = folder / WORK if folder else None, []
    try:
        family.stage.begin()
        if config.on_top_of:
            before = erased_concepts(load_before(pipe, config.on_top_of).about)
        planned, config = family.ranks.first(make_plan(family, config, vocabulary, before, callback))
        callback.planned(planned, config)
        with accelerator.autocast():
            config, batches = fitted(family, config, planned, room)
        if batches.words:
            callback.stage(f"memory: {batches.words}")
        states = make_states(family, config, planned.pairs, planned.keep, work, accelerator, callback, batches.drawn)
        wake(family.model)
        bases = make_bases(family, config, states, accelerator, callback, scale, batches)
        if folder:
            check_space(folder, OUTPUTS * sum(b.bytes for b in bases.values()), "the adapter with its checkpoint")
    except BaseException as error:
        if folder and accelerator.is_main_process and not (run.resume or worth_keeping(error, work)):
            shutil.rmtree(work, ignore_errors=True)
        leave_before(pipe)
        family.stage.end(pipe)
        raise
    adapt(family, config, bases, name, planned)
    if config.on_top_of:
        train_beside(family.model)
    progress = train(family, config, states, accelerator, work, callback, scale, batches)
    freeze(family)
    facts = measure(family, bases, progress)
    trained = Trainer(family, config, states, accelerator, Path("."), scale, batches)
    small = make_small(trained, adapter_config(config), callback)
    family.stage.end(pipe)
    fits = {"memory": batches.words} if batches.words else {}
    erasure.config, erasure.progress, erasure.plan = config, progress, planned
    erasure.facts |= {"seconds": 0.0, **facts, **fits, "before": before, "written": small.facts()}
    erasure.facts |= planned.facts()
    if config.on_top_of:
        join_before(pipe)
        freeze(family)
        for model in adapted_parts(pipe).values():
            shrink(model, 1.0, config.precision)


def worth_keeping(error: BaseException, work: Path) -> bool:
    """Whether a resumed run could use what was done: states are drawn, and the options are not what is wrong."""
    outside = (KeyboardInterrupt, OSError, MemoryError, torch.OutOfMemoryError, SafetensorError)
    return isinstance(error, outside) and (work / "states.safetensors").is_file()


def prepare_folder(output: str | Path, config: EraseConfig, overwrite: bool, resume: bool, model: str = "") -> Path:
    """The output folder, empty or to be resumed. ValueError where it is in use or cannot be resumed."""
    folder = Path(output)
    saved, begun = folder / BEGUN, {"model": model, **config.to_dict()}
    if resume and saved.is_file():
        if read_json(saved) != begun:
            raise ValueError(f"{folder} was begun with other options; repeat those, or use --overwrite")
        return folder
    if resume:
        raise ValueError(f"nothing to resume in {folder}; leave out --resume")
    check_output(folder, overwrite, "--resume to go on" if saved.is_file() else "another --output")
    shutil.rmtree(folder / WORK, ignore_errors=True)
    (folder / WORK).mkdir(parents=True)
    write_atomic(saved, json.dumps(begun))
    return folder


# ------------------------------------------------------------------------------------------------ stages


def fitted(family, config: EraseConfig, planned: Plan, room: float | None) -> tuple[EraseConfig, Batches]:
    """The choices that fit into so many bytes, on all processes the same; ValueError where none do."""
    ranks, whole = family.ranks, config.batch_size
    config = replace(config, batch_size=whole // ranks.count)  # what one process has of a step
    if room is None:
        return replace(config, batch_size=whole), default_batches(config)
    semu = adapter_config(config, family)
    if not find_layers(family.model, semu):
        raise ValueError("the model has no Linear or Conv2d layer that target_modules names")
    prompt = planned.pairs[0].prompt
    words = prompt_bytes(family, prompt)
    foot = measure_footprint(family.model, semu, probe(family, prompt), family.device, words)
    models = [family.model, *(m for m in (denoiser(family.pipe),) if all(m is not k for k in family.model.modules()))]
    host = None if family.device.type == "cpu" else host_room() / number("LOCAL_WORLD_SIZE", 1)
    fixed = sum(map(module_bytes, modules_of(family.pipe) if host is None else models))
    fixed += words * len({text for pair in planned.pairs for text in (pair.prompt, pair.anchor)} | {*planned.keep})
    fixed += states_bytes(family, config) if host is None else 0
    config, batches = ranks.first(plan_memory(config, fixed, foot, room, host))
    return replace(config, batch_size=whole), batches


def adapter_config(config: EraseConfig, family=None) -> SemuConfig:
    """The adapter's part of the choices."""
    pattern = {} if config.gamma_cross is None else {"attn2": config.gamma_cross}
    return SemuConfig(
        exclude_modules=(family and beyond_reach(family)) or None,
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
    batches: Batches | None = None,
) -> dict[str, Basis]:
    """The bases from all forget records, of which each process sums up its share."""
    callback.stage("gradient and SVD")
    trainer = Trainer(family, config, states, accelerator, Path("."), scale, batches)
    model, semu, ranks = family.model, adapter_config(config, family), family.ranks
    left = [len(r) - len(ranks.whole(r)) for r in (trainer.forget_records, trainer.kept_records)]
    if any(left):
        callback.note(f"left out, so that all {ranks.count} processes have as many: {left[0]} records of the gradient, "
                      f"{left[1]} of the moments")  # fmt: skip
    if config.gradient_checkpointing:
        named = "gradient_checkpointing_enable" if config.train == "text_encoder" else "enable_gradient_checkpointing"
        getattr(model, named)()  # transformers' name and diffusers'
    bases = find_bases(
        model, semu, trainer.forgetting_gradient(model), trainer.kept_forward(model), config.sketch,
        scale=scale, on_host=trainer.batches.on_host, ranks=ranks,
    )  # fmt: skip
    callback.ranks(bases)
    if semu.exclude_modules:
        callback.warn(f"{len(semu.exclude_modules)} convolutions in groups stay as they are, as no LoRA can hold them: "
                      f"{named_few(semu.exclude_modules)}")  # fmt: skip
    targeted = find_layers(model, semu)
    if missing := without_basis(targeted, bases):
        callback.warn(left_out(missing, len(targeted)))
    return bases


def adapt(family, config: EraseConfig, bases: dict[str, Basis], base_model: str, planned: Plan) -> None:
    """Injects the adapter at R = 0; only R is trainable."""
    for prefix, model in family.members.items():
        semu, own = adapter_config(config), {k[len(prefix) :]: b for k, b in bases.items() if k.startswith(prefix)}
        semu.ranks = {name: basis.rank for name, basis in own.items()}
        semu.about = {"base_model": base_model, "concept": config.concept, "anchor": config.anchor, **planned.about()}
        if own:
            inject(model, semu)
            install_bases(model, own)


def train(
    family,
    config: EraseConfig,
    states: States,
    accelerator: Accelerator,
    work: Path | None,
    callback: Callback,
    scale: LossScale | None = None,
    batches: Batches | None = None,
) -> Progress:
    """Trains R; without an output folder the checkpoint goes to a temporary one."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(family, config, states, accelerator, work or Path(scratch), scale, batches)
        callback.stage("training R", trainer.schedule.end(Progress()))
        if config.tracker:
            accelerator.init_trackers("semu")

        def report(row: dict) -> None:
            callback.row(row)
            accelerator.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

        progress = trainer.train(report)
    for tracker in accelerator.trackers:  # not end_training(), after which the processes could say nothing more
        tracker.finish()
    return progress


def freeze(family) -> None:
    """The adapter for use: frozen, eval mode."""
    family.model.requires_grad_(False)
    family.model.eval()
