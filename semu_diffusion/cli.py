"""The shell interface: semu erase, generate, eval, models."""

from __future__ import annotations

import inspect
import json
import os
import sys
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Optional

# Before transformers and diffusers are imported: their notices would stand between our own lines.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import typer  # noqa: E402

from .attacks.command import attack  # noqa: E402
from .classification.command import classify  # noqa: E402
from .diffusion.config import GROUPS, EraseConfig  # noqa: E402
from .eval_command import evaluate, report  # noqa: E402
from .sharing import export, merge, pull, push, show  # noqa: E402
from .shell import (  # noqa: E402
    Device,
    Dtype,
    Json,
    Model,
    Quiet,
    Seed,
    check_scale,
    display,
    open_pipeline,
    output_folder,
    print_report,
)

app = typer.Typer(
    help="Erase concepts from diffusion models with small adapters (SEMU).",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# ------------------------------------------------------------------------------------------------- erase


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
    from .diffusion.erasure import prepare_folder, run_erasure
    from .suites import finish

    first = os.environ.get("RANK", "0") == "0"  # of several processes, one writes and speaks
    given = {k: v for k, v in options.items() if v not in (None, [])}
    settings = EraseConfig.from_yaml(config, **given) if config else EraseConfig(**given)
    if first and not resume:
        output_folder(output, overwrite)
    elif first and not output.is_dir():
        prepare_folder(output, settings, overwrite, resume)  # says that there is nothing to resume
    pipe = open_pipeline(model, device, dtype)
    pipe.register_to_config(_name_or_path=model)
    with display(quiet or not first) as reporter:
        erasure = run_erasure(pipe, settings, output, overwrite, resume, reporter)
        report = finish(erasure, model, reporter) if evaluate and first else None
    if not first:
        return
    facts = {k: v for k, v in erasure.facts.items() if k not in ("ranks", "energy")}
    if as_json:
        print(json.dumps({"output": str(output), "training": facts, "evaluation": report}))
        return
    print_report(report, as_json)
    trained = f"{facts['trained']:,} trained numbers ({facts['trained_percent']:.2f} %)"
    print(f"{output}: {facts['layers']} layers, {trained}, {facts['steps']} steps, {facts['seconds']:.0f} s")


_fixed = [p for p in inspect.signature(erase).parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
_fixed = [
    p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=typing.get_type_hints(erase, include_extras=True)[p.name])
    for p in _fixed
]
_options = erase_options()
erase.__signature__ = inspect.Signature([*_options[:3], *_fixed, *_options[3:]])
erase.__annotations__ = {p.name: p.annotation for p in erase.__signature__.parameters.values()}
app.command()(erase)
app.command()(classify)
app.command()(attack)


# ----------------------------------------------------------------------------------------------- generate


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Option(help="What to draw. Repeatable.")],
    output: Annotated[Path, typer.Option(help="A .png file, or a folder for several pictures.")],
    model: Model = "pictograms",
    adapter: Annotated[
        str | None, typer.Option(help="Folder, file or user/name; without one the base model draws.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the adapter, 0 is the base model.")] = 1.0,
    count: Annotated[int, typer.Option(min=1, help="Pictures per prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 3.0,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "fp32",
    quiet: Quiet = False,
) -> None:
    """Draw pictures with an adapter at any strength."""
    from PIL import Image

    from .diffusion import draw
    from .hub import load_adapter

    check_scale(scale)
    prompts = [p for p in prompt for _ in range(count)]
    single = output.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
    if single and len(prompts) > 1:
        raise ValueError(f"{len(prompts)} pictures do not fit into the file {output}; give a folder")
    pipe = open_pipeline(model, device, dtype)
    if adapter:
        load_adapter(pipe, adapter, scale=scale)
    with display(quiet) as reporter:
        reporter.stage("drawing", len(prompts))
        seeds = [seed + k for k in range(len(prompts))]
        images = draw(pipe, prompts, seeds, steps, guidance, progress=reporter.advance)
    (output.parent if single else output).mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        file = output if single else output / f"{k:04d}.png"
        picture = Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().numpy())
        temporary = file.with_name(f".{file.name}")
        picture.save(temporary)
        temporary.replace(file)
        print(file)


for command in (export, merge, push, pull, report):
    app.command()(command)
app.command("inspect")(show)
app.command("eval")(evaluate)


# ------------------------------------------------------------------------------------------------- models


@app.command()
def models(as_json: Json = False) -> None:
    """List embedded models and the families that can be erased from."""
    from .diffusion.families import FAMILIES
    from .diffusion.pipeline import ASSETS

    embedded = sorted(p.parent.name for p in ASSETS.glob("*/model_index.json"))
    families = [f.title for f in FAMILIES]
    if as_json:
        print(json.dumps({"embedded": embedded, "families": families}))
        return
    print("embedded:", *embedded or ["none"], sep="\n  ")
    print("families:", *families, sep="\n  ")


def main() -> None:
    """Entry point: every error of the user's ends in one line and exit status 2."""
    try:
        status = app(standalone_mode=False)
    except (ValueError, FloatingPointError) as error:
        fail(str(error))
    except OSError as error:
        fail(str(error))
    except Exception as error:
        # Typer and click raise usage errors of their own classes; they know how to say what is wrong.
        if not hasattr(error, "format_message"):
            raise
        fail(error.format_message())
    if status == 130:  # what Typer makes of Ctrl-C
        fail("interrupted; an erasure goes on with --resume", 130)
    sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int = 2) -> typing.NoReturn:
    """One line on stderr."""
    print(f"semu: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
