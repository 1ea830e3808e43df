"""The shell commands on finished adapters: semu export, merge, inspect, push, pull."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .shell import Adapter, Json, Model, check_scale, open_pipeline, output_folder

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")]
Repo = Annotated[str, typer.Argument(help="Repository on the Hub: user/name.")]


def export(
    adapter: Adapter,
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    model: Model = "pictograms",
    to: Annotated[
        str,
        typer.Option(
            help="native, diffusers (LoRA), kohya (ComfyUI, A1111), merged (a whole diffusers model) or single-file "
            "(a whole model for ComfyUI and A1111)."
        ),
    ] = "diffusers",
    compress: Annotated[
        float | None, typer.Option(help="First truncate the update to this share of its energy.")
    ] = None,
    uniform_rank: Annotated[bool, typer.Option("--uniform-rank", help="Pad ranks, for diffusers before 0.36.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Write a single file in fp16.")] = False,
    scale: Annotated[float, typer.Option(help="Strength that is written.")] = 1.0,
    overwrite: Overwrite = False,
) -> None:
    """Write an adapter in a format that other programs load."""
    from .diffusion.export import FORMATS, compress_measured
    from .diffusion.export import export as write
    from .hub import load_adapter

    check_scale(scale)
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}; known: {', '.join(FORMATS)}")
    if to == "native" and scale != 1:
        raise ValueError("a native adapter is written at full strength; give --scale where it is loaded")
    output_folder(output, overwrite)
    pipe = open_pipeline(model, None, "fp32")
    load_adapter(pipe, adapter, scale=scale)
    if compress is not None:
        print(f"compressed: {compress_measured(pipe, compress)}", file=sys.stderr)
    print(write(pipe, output, to, uniform_rank, half=half))


def merge(
    adapters: Annotated[list[str], typer.Argument(help="Two or more adapters of one base model.")],
    output: Annotated[Path, typer.Option(help="Folder for the one adapter; new or empty.")],
    model: Model = "pictograms",
    weight: Annotated[list[float] | None, typer.Option(help="One for each adapter; default: 1. Repeatable.")] = None,
    energy: Annotated[float, typer.Option(help="Truncate each layer's sum to this share of its energy.")] = 1.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Combine adapters of one base model into one, and say how far they get in each other's way."""
    from rich.console import Console

    from .adapter.weights import WEIGHTS
    from .card import write_card
    from .diffusion.many import merge_adapters, short_names
    from .display import interference_tables
    from .evaluation.adapter_charts import interference_chart
    from .hub import local

    if len(adapters) < 2:
        raise ValueError("give two or more adapters to merge")
    output_folder(output, overwrite)
    pipe = open_pipeline(model, None, "fp32")
    names = short_names(adapters)
    results = merge_adapters(pipe, [local(a) for a in adapters], output, weight, energy, model, names)
    interference_chart(names, results["interference"], output / "interference.png")
    write_card(output, results)
    if as_json:
        print(json.dumps(results))
        return
    for table in interference_tables(results["merged"], results["interference"]):
        Console().print(table)
    size = sum(file.stat().st_size for file in output.rglob(WEIGHTS))  # text encoders have folders of their own
    print(f"{output}: {results['layers']} layers, ranks sum to {results['ranks']}, {size:,} bytes")


def show(
    file: Annotated[str, typer.Argument(help="Adapter folder, user/name, or .safetensors file in any of our formats.")],
    output: Annotated[Path | None, typer.Option(help="Also draw the ranks over the depth into this .png file.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is in an adapter file: what it erases, ranks by depth, energy, bytes, scores."""
    from rich.console import Console

    from .contents import read_contents
    from .display import contents_tables
    from .hub import local

    contents = read_contents(local(file))
    if output is not None:
        from .evaluation.adapter_charts import rank_chart

        rank_chart(contents.ranks, output)
    if as_json:
        print(json.dumps(contents.to_dict()))
        return
    print(contents.headline())
    for table in contents_tables(contents):
        Console().print(table)
    if output is not None:
        print(output)


def push(
    folder: Annotated[Path, typer.Argument(help="A folder that `semu erase` or `semu merge` wrote.")],
    repo: Repo,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of pushing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub in one commit."""
    from .hub import push_to_hub, to_push

    if dry_run:
        files = to_push(folder, repo)
        for name, content in files.items():
            print(f"{len(content) if isinstance(content, bytes) else content.stat().st_size:>12,}  {name}")
        return
    print(push_to_hub(folder, repo, private, revision, create_pr))


def pull(
    repo: Repo,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download an adapter from the Hugging Face Hub; prints its local folder."""
    from .hub import pull as download

    print(download(repo, revision))
