"""`semu erase`: erase concepts from a model and write the adapter."""

from __future__ import annotations

import inspect
import json
import os
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Optional

import typer  # noqa: E402

from ..diffusion.config import GROUPS, EraseConfig  # noqa: E402
from .options import (  # noqa: E402
    Device,
    Dtype,
    Json,
    Model,
    Quiet,
    display,
    open_pipeline,
    output_folder,
    print_report,
)


def erase_options() -> list[inspect.Parameter]:
    """One shell option per field of `EraseConfig`, None where it is not given, so that a recipe can fill it."""
    hints, group, parameters = typing.get_type_hints(EraseConfig), "", []
    for f in fields(EraseConfig):
        group = GROUPS.get(f.name, group)
        default = None if f.default is MISSING else f.default
        shown = str(default) if default not in (None, "", False) else False
        names = [f"--{f.name.replace('_', '-')}"]
        names += [f"--no-{f.name.replace('_', '-')}"] if hints[f.name] is bool else []
        spec = typer.Option("/".join(names), help=f.metadata["help"], rich_help_panel=group, show_default=shown)
        kind = hints[f.name] if type(None) in typing.get_args(hints[f.name]) else Optional[hints[f.name]]  # noqa: UP045
        parameters.append(
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, spec])
        )
    return parameters


def erase(
    output: Annotated[Path, typer.Option(help="Folder for the adapter; new or empty.")],
    model: Model = "pictograms",
    config: Annotated[Path | None, typer.Option(help="YAML recipe with any of these options.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Evaluate and draw pictures afterwards.")] = True,
    device: Device = None,
    dtype: Dtype = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
    **options,
) -> None:
    """Erase concepts from a model and write the adapter.

    semu erase --concept cigarette --output no-cigarette
    """
    from ..diffusion.erasure import prepare_folder, run_erasure
    from ..evaluation.finish import finish

    first = os.environ.get("RANK", "0") == "0"  # of several processes, one writes and speaks
    given = {k: v for k, v in options.items() if v not in (None, [])}
    settings = EraseConfig.from_yaml(config, **given) if config else EraseConfig(**given)
    if first and not resume:
        output_folder(output, overwrite)
    elif first and not output.is_dir():
        prepare_folder(output, settings, overwrite, resume)  # says that there is nothing to resume
    pipe = open_pipeline(model, device, dtype)
    pipe.register_to_config(_name_or_path=model)
    with display(quiet or not first) as callback:
        erasure = run_erasure(pipe, settings, output, overwrite, resume, callback)
        report = finish(erasure, model, callback) if evaluate and first else None
    if not first:
        return
    facts = {k: v for k, v in erasure.facts.items() if k not in ("ranks", "energy")}
    if as_json:
        print(json.dumps({"output": str(output), "training": facts, "evaluation": report}))
        return
    print_report(report, as_json)
    trained = f"{facts['trained']:,} trained numbers ({facts['trained_percent']:.2f} %)"
    print(f"{output}: {facts['layers']} layers, {trained}, {facts['steps']} steps, {facts['seconds']:.0f} s")


_fixed = [
    p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=typing.get_type_hints(erase, include_extras=True)[p.name])
    for p in inspect.signature(erase).parameters.values()
    if p.kind != inspect.Parameter.VAR_KEYWORD
]
_options = erase_options()
erase.__signature__ = inspect.Signature([*_options[:3], *_fixed, *_options[3:]])
erase.__annotations__ = {p.name: p.annotation for p in erase.__signature__.parameters.values()}
