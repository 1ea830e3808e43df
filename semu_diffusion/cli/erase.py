"""`semu erase`: erase concepts from a model and write the adapter."""

from __future__ import annotations

import inspect
import json
import os
import typing
from contextlib import nullcontext
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..diffusion.config import EraseConfig
from .errors import resumable, resume_hint
from .loading import loading_options, take_loading
from .options import (
    Device,
    Json,
    Model,
    Overwrite,
    Quiet,
    Resume,
    display,
    open_pipeline,
    output_folder,
    print_report,
)

SWITCHES = "Advanced, on or off"
# What most people need, with what stands for the value; the rest is advanced.
MAIN = {"method": "NAME", "concept": "TEXT", "kind": "KIND", "anchor": "TEXT", "max_memory": "GB", "seed": "N"}


def erase_options() -> dict[str, inspect.Parameter]:
    """One shell option per field of `EraseConfig`, None where it is not given, so that a recipe can fill it."""
    hints, parameters = typing.get_type_hints(EraseConfig), {}
    for f in fields(EraseConfig):
        default = None if f.default is MISSING else f.default
        shown = str(default) if default not in (None, "", False) and f.name not in MAIN else False
        names = [f"--{f.name.replace('_', '-')}"]
        names += [f"--no-{f.name.replace('_', '-')}"] if hints[f.name] is bool else []
        panel = None if f.name in MAIN else SWITCHES if hints[f.name] is bool else "Advanced"
        spec = typer.Option(
            "/".join(names),
            help=f.metadata["help"],
            rich_help_panel=panel,
            show_default=shown,
            metavar=MAIN.get(f.name),
        )
        kind = hints[f.name] if type(None) in typing.get_args(hints[f.name]) else Optional[hints[f.name]]  # noqa: UP045
        parameters[f.name] = inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, spec]
        )
    return parameters


def erase(
    output: Annotated[Path, typer.Option(help="Folder to write; new or empty.", metavar="DIR")],
    model: Model = "pictograms",
    config: Annotated[
        Path | None, typer.Option(help="YAML file of these options, or recipe:NAME.", metavar="FILE")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Measure and draw pictures.", rich_help_panel=SWITCHES)
    ] = True,
    overwrite: Overwrite = False,
    resume: Resume = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Erase concepts from a model and write the adapter.

    semu erase --concept cigarette --output no-cigarette
    """
    from ..adapter.claims import WORK, claimed
    from ..diffusion.erasers.run import check_fits, check_run
    from ..diffusion.erasure import prepare_folder, run_erasure
    from ..diffusion.loading import check_device
    from ..diffusion.processes import check_processes
    from ..diffusion.recipes import recipe_of
    from ..evaluation.drawing import team
    from ..evaluation.finish import finish

    first = os.environ.get("RANK", "0") == "0"  # of several processes, one writes and speaks
    loading = take_loading(options)
    given = {k: v for k, v in options.items() if v not in (None, [])}
    recipe = recipe_of(config) if config else None
    if recipe:
        settings = recipe.config(**given)
    else:
        settings = EraseConfig.from_yaml(config, **given) if config else EraseConfig(**given)
    check_processes(settings, loading)
    check_run(settings, resume)
    if first and not resume:
        output_folder(output, overwrite)
    elif first and not output.is_dir():
        prepare_folder(output, settings, overwrite, resume)  # says that there is nothing to resume
    begun = resume_hint(output, f"{WORK}/states.safetensors")
    with resumable(begun), claimed(output) if first else nullcontext():
        pipe = open_pipeline(model, device, loading, placed=False, fits=partial(check_fits, settings.method))
        pipe.register_to_config(_name_or_path=model)
        with display(quiet or not first) as callback:
            if recipe:
                settings = for_family(recipe, pipe, given, callback)
            place = str(check_device(device))
            erasure = run_erasure(pipe, settings, output, overwrite, resume, callback, place, keep_work=evaluate)
            report = finish(erasure, model, callback) if evaluate else None
            team().destroy_process_group()
    if not first:
        return
    facts = {k: v for k, v in erasure.facts.items() if k not in ("ranks", "energy")}
    commands = recipe.commands(model, output) if recipe else []
    if as_json:
        more = {"evaluate": commands} if recipe else {}
        print(json.dumps({"output": str(output), "training": facts, "evaluation": report, **more}))
        return
    print_report(report, as_json)
    trained = f"{facts['trained']:,} trained numbers ({facts['trained_percent']:.2f} %)"
    print(f"{output}: {facts['layers']} layers, {trained}, {facts['steps']} steps, {facts['seconds']:g} s")
    for command in commands:
        print(f"evaluate: {command}")


def for_family(recipe, pipe, given: dict, callback) -> EraseConfig:
    """A recipe's choices for a pipeline; said where it was not written for its family."""
    from ..diffusion.families import family_of
    from ..diffusion.recipes import families

    found = family_of(pipe)
    if found.sampler.few:  # the recipes' numbers are for undistilled models
        given = {"sampler_steps": None, "guidance": None, **given}
    family = type(found).__name__
    if family not in families():
        callback.warn(f"the recipes were written for {', '.join(families())}, not for {family}; going on with defaults")
    return recipe.config(family, **given)


def with_options(command, options: dict[str, inspect.Parameter], first: tuple[str, ...]) -> None:
    """Gives a command these parameters beside its own: the `first` ones before its own, the others behind."""
    own = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.kind != inspect.Parameter.VAR_KEYWORD
    ]
    rest = [p for name, p in options.items() if name not in first]
    command.__signature__ = inspect.Signature([*(options[name] for name in first), *own, *rest])
    command.__annotations__ = {p.name: p.annotation for p in command.__signature__.parameters.values()}


with_options(erase, {**erase_options(), **loading_options()}, tuple(MAIN))
