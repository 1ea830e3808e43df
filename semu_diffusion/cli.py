"""The shell interface: semu erase, generate, eval, models."""

from __future__ import annotations

import inspect
import json
import os
import sys
import typing
from contextlib import nullcontext
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Optional

# Before transformers and diffusers are imported: their notices would stand between our own lines.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import typer  # noqa: E402

from .classification.command import classify  # noqa: E402
from .diffusion.config import GROUPS, EraseConfig  # noqa: E402

app = typer.Typer(
    help="Erase concepts from diffusion models with small adapters (SEMU).",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Option(help="Diffusers folder, Hub id, or the embedded 'pictograms'.")]
Adapter = Annotated[str, typer.Option(help="Adapter folder, its .safetensors file, or user/name on the Hub.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: a GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="fp32, fp16 or bf16.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of the first picture; the next ones count up.")]


def quieten() -> None:
    """No progress bars and notices of the libraries between our own lines."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def open_pipeline(model: str, device: str | None, dtype: str):
    """The pipeline at `--model`."""
    import torch

    from .diffusion import load_pipeline

    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if dtype not in types:
        raise ValueError(f"dtype must be one of {', '.join(types)}, got {dtype!r}")
    quieten()
    return load_pipeline(model, device, types[dtype])


def output_folder(folder: Path, overwrite: bool) -> Path:
    """An output folder that is new, empty or to be overwritten."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        way = "--resume to go on" if (folder / ".work").is_dir() else "another --output"
        raise ValueError(f"{folder} exists and is not empty; use --overwrite, or {way}")
    return folder


def check_scale(scale: float) -> None:
    """A strength that makes sense; NaN does not."""
    if not 0 <= scale < float("inf"):
        raise ValueError(f"scale must be a number of at least 0, got {scale}")


def display(quiet: bool):
    """The progress display, or a silent one."""
    from .diffusion.reporter import Silent

    if quiet:
        return nullcontext(Silent())
    from .display import Display

    return Display()


def print_report(report: dict | None, as_json: bool) -> None:
    """The table of a suite, or JSON, on stdout."""
    from rich.console import Console

    from .display import metrics_table
    from .suites import ROWS

    if as_json:
        print(json.dumps(report))
    elif report:
        Console().print(metrics_table(report["base"], report["erased"], ROWS))


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


# --------------------------------------------------------------------------------------------------- eval


@app.command("eval")
def evaluate(
    adapter: Adapter,
    output: Annotated[Path, typer.Option(help="Folder for evaluation.json and pictures.")],
    model: Model = "pictograms",
    suite: Annotated[str, typer.Option(help="Which suite: pictograms.")] = "pictograms",
    concept: Annotated[list[str] | None, typer.Option(help="What was erased; default: what the adapter says.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures per forgotten prompt.")] = 10,
    scale: Annotated[float, typer.Option(help="Strength of the adapter.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    device: Device = None,
    dtype: Dtype = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what an adapter forgets and what it keeps, beside the base model."""
    from .hub import load_adapter
    from .suites import SUITES, concepts_of, run_pictograms, write_report

    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; known: {', '.join(SUITES)}")
    check_scale(scale)
    output_folder(output, overwrite)
    pipe = open_pipeline(model, device, dtype)
    config = load_adapter(pipe, adapter, scale=scale)
    concepts = concept or concepts_of(config)
    with display(quiet) as reporter:
        report, pictures = run_pictograms(pipe, concepts, seeds, 1, reporter)
    write_report(output, report, pictures, concepts)
    print_report(report, as_json)


# ------------------------------------------------------------------------------------------------- export


@app.command()
def export(
    adapter: Adapter,
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    model: Model = "pictograms",
    to: Annotated[
        str, typer.Option(help="diffusers (LoRA), kohya (ComfyUI, A1111) or merged (a whole model).")
    ] = "diffusers",
    compress: Annotated[
        float | None, typer.Option(help="First truncate the update to this share of its energy.")
    ] = None,
    uniform_rank: Annotated[bool, typer.Option("--uniform-rank", help="Pad ranks, for diffusers before 0.36.")] = False,
    scale: Annotated[float, typer.Option(help="Strength that is written.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
) -> None:
    """Write an adapter in a format that other programs load."""
    from .adapter.weights import semu_layers
    from .diffusion.export import FORMATS, compress_adapter
    from .diffusion.export import export as write
    from .diffusion.pipeline import denoiser
    from .hub import load_adapter

    check_scale(scale)
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}; known: {', '.join(FORMATS)}")
    output_folder(output, overwrite)
    pipe = open_pipeline(model, None, "fp32")
    load_adapter(pipe, adapter, scale=scale)
    if compress is not None:
        model = denoiser(pipe)
        before = sum(layer.r["default"] for layer in semu_layers(model).values())
        after = sum(compress_adapter(model, compress).values())
        print(f"compressed: ranks sum to {after} instead of {before}", file=sys.stderr)
    print(write(pipe, output, to, uniform_rank))


# ------------------------------------------------------------------------------------------------ inspect


@app.command("inspect")
def show(
    file: Annotated[Path, typer.Argument(help="Adapter folder or .safetensors file in any of our formats.")],
    as_json: Json = False,
) -> None:
    """Say what is in an adapter file: what it erases, ranks by depth, bytes."""
    from rich.console import Console
    from rich.table import Table

    from .contents import depth_bars, read_contents

    contents = read_contents(file)
    if as_json:
        print(json.dumps(contents.to_dict()))
        return
    total = sum(contents.ranks.values())
    size = f"{contents.bytes:,} bytes, {len(contents.ranks)} layers, ranks sum to {total}"
    print(f"{contents.file}: {contents.format}, {size}")
    for key in ("base_model", "concept", "anchor", "gamma", "geometry", "seed"):
        if contents.about.get(key) not in (None, "", []):
            print(f"  {key}: {contents.about[key]}")
    table = Table("block", "layers", "mean rank", box=None, header_style="bold")
    for block, count, bar in depth_bars(contents.ranks):
        table.add_row(block, str(count), bar)
    Console().print(table)


# --------------------------------------------------------------------------------------------- push, pull


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A folder that `semu erase` wrote.")],
    repo: Annotated[str, typer.Argument(help="Repository on the Hub: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of pushing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub in one commit."""
    from .hub import push_to_hub, to_push

    if dry_run:
        for file in to_push(folder):
            print(f"{file.stat().st_size:>12,}  {file.name}")
        return
    print(push_to_hub(folder, repo, private, revision, create_pr))


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="Repository on the Hub: user/name.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download an adapter from the Hugging Face Hub; prints its local folder."""
    from .hub import pull as download

    print(download(repo, revision))


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
