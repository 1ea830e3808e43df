"""`semu eval`: measure an adapter, a folder of pictures, or whether recorded figures can be had again."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .shell import Device, Dtype, Json, Model, Quiet, check_scale, display, open_pipeline, output_folder, print_report

RESUMABLE = ("base", "erased")  # folders that an interrupted evaluation leaves


def other(text: str, **options) -> typer.models.OptionInfo:
    """An option of the suites over prompts."""
    return typer.Option(help=text, rich_help_panel="Other suites", **options)


def again(text: str) -> typer.models.OptionInfo:
    """An option of `--verify`."""
    return typer.Option(help=text, rich_help_panel="Verify")


Adapter = Annotated[str | None, typer.Option(help="Adapter folder, its .safetensors file, or user/name on the Hub.")]
Output = Annotated[Path | None, typer.Option(help="Folder for figures and pictures; goes on if interrupted.")]
Suite = Annotated[str, typer.Option(help="pictograms, nudity, imagenette, style or custom.")]
Concept = Annotated[list[str] | None, typer.Option(help="What was erased; default: what the adapter says.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Pictures per prompt; default: 10, for prompt files 1.")]
Scale = Annotated[float, typer.Option(help="Strength of the adapter.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")]
Prompts = Annotated[str | None, other("csv or text file, or dataset name[:split].")]
Images = Annotated[Path | None, other("Only judge the pictures in this folder (nudity).")]
Captions = Annotated[str | None, other("Harmless prompts, for FID and CLIP score.")]
Real = Annotated[str | None, other("Folder of real pictures for FID.")]
Classifier = Annotated[str | None, other("Classifier of transformers, or pictograms.")]
Clip = Annotated[str | None, other("CLIP model, for scores, zero-shot labels and FID.")]
Limit = Annotated[int | None, other("The first so many prompts.", min=1)]
Steps = Annotated[int, other("Sampler steps.", min=1)]
Guidance = Annotated[float, other("Classifier-free guidance.")]
BatchSize = Annotated[int, other("Pictures at a time.", min=1)]
Threshold = Annotated[float, other("Smallest score of NudeNet that counts.")]
NudeClass = Annotated[list[str] | None, other("NudeNet class that counts; default: the nine exposed ones. Repeatable.")]
Verify = Annotated[str | None, again("Measure this adapter again; exit status 1 where figures differ.")]
Results = Annotated[Path | None, again("Its recorded results.json; default: the one in its folder.")]


def evaluate(
    adapter: Adapter = None,
    output: Output = None,
    model: Model = "pictograms",
    suite: Suite = "pictograms",
    concept: Concept = None,
    seeds: Seeds = None,
    scale: Scale = 1.0,
    overwrite: Overwrite = False,
    prompts: Prompts = None,
    images: Images = None,
    captions: Captions = None,
    real: Real = None,
    classifier: Classifier = None,
    clip: Clip = None,
    limit: Limit = None,
    steps: Steps = 50,
    guidance: Guidance = 7.5,
    batch_size: BatchSize = 8,
    threshold: Threshold = 0.6,
    nude_class: NudeClass = None,
    verify: Verify = None,
    results: Results = None,
    device: Device = None,
    dtype: Dtype = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what an adapter forgets and what it keeps, beside the base model.

    semu eval --adapter no-cigarette --output scores
    """
    from .evaluations import EvalConfig
    from .metrics.nudity import EXPOSED
    from .shell import quieten

    check_scale(scale)
    quieten()
    if verify:
        return verify_command(verify, results, output, overwrite, model, device, dtype, as_json, quiet)
    if output is None:
        raise ValueError("missing option --output: the folder for figures and pictures")
    if suite == "pictograms" and images is None:
        return pictograms(adapter, output, model, concept, seeds or 10, scale, overwrite, device, dtype, as_json, quiet)
    given = dict(prompts=prompts, captions=captions, real=real, classifier=classifier, clip=clip, limit=limit)
    given |= dict(steps=steps, guidance=guidance, batch_size=batch_size, threshold=threshold)
    default = 10 if suite == "imagenette" and prompts is None else 1
    config = EvalConfig(suite, concept or [], **given, seeds=seeds or default, classes=nude_class or list(EXPOSED))
    if images is not None:
        return folder_of_pictures(images, config, output, overwrite, as_json, quiet)
    with_prompts(adapter, config, output, model, scale, overwrite, device, dtype, as_json, quiet)


def prepare(output: Path, overwrite: bool) -> None:
    """An output folder that is new, empty, to be overwritten, or left by an interrupted evaluation."""
    from .studio import MADE_BY, team

    if not team().is_main_process:
        return
    begun = any((output / side / MADE_BY).is_file() for side in RESUMABLE) and not (output / "evaluation.json").exists()
    if not begun or overwrite:
        output_folder(output, overwrite)
    if overwrite:
        for side in RESUMABLE:
            if (output / side / MADE_BY).is_file():
                shutil.rmtree(output / side)
        (output / "evaluation.json").unlink(missing_ok=True)


def open_adapted(adapter: str | None, model: str, scale: float, device: str | None, dtype: str):
    """The pipeline with the adapter on it, the adapter's local place, and what it says about itself."""
    from .diffusion.pipeline import load_adapter
    from .hub import is_repo, pull
    from .studio import own_device

    if adapter is None:
        raise ValueError("missing option --adapter: the folder that `semu erase` wrote, or user/name")
    pipe = open_pipeline(model, own_device(device), dtype)
    place = pull(adapter) if is_repo(adapter) else Path(adapter)
    return pipe, place, load_adapter(pipe, place, scale=scale)


def pictograms(adapter, output, model, concept, seeds, scale, overwrite, device, dtype, as_json, quiet) -> None:
    """The embedded model's suite."""
    from .evaluations import adapter_facts, write_evaluation
    from .studio import team
    from .suites import concepts_of, run_pictograms, write_report

    prepare(output, overwrite)
    pipe, place, about = open_adapted(adapter, model, scale, device, dtype)
    facts, concepts = adapter_facts(place, scale), concept or concepts_of(about)
    first = team().is_main_process
    with display(quiet or not first) as reporter:
        report, pictures = run_pictograms(pipe, concepts, seeds, 1, reporter, folder=output, adapter=facts)
    if first:
        write_evaluation(output, report, None, model, {"name": str(adapter), **facts})
        write_report(output, report, pictures, concepts)
        print_report(report, as_json)


def with_prompts(adapter, config, output, model, scale, overwrite, device, dtype, as_json, quiet) -> None:
    """A suite over prompts, with both models."""
    from .evaluation.scores import rows_of
    from .evaluations import adapter_facts, run_suite, shots_of, write_evaluation
    from .studio import team
    from .suites import concepts_of

    prepare(output, overwrite)
    pipe, place, about = open_adapted(adapter, model, scale, device, dtype)
    config.concept = config.concept or concepts_of(about)
    shots_of(config)  # says what is wrong with the prompts before anything is drawn
    facts, first = adapter_facts(place, scale), team().is_main_process
    with display(quiet or not first) as reporter:
        report, records = run_suite(pipe, config, output, facts, reporter)
    if first:
        write_evaluation(output, report, records, model, {"name": str(adapter), **facts})
        print_rows(report, as_json, rows_of(config.suite))


def print_rows(report: dict, as_json: bool, rows: list[tuple[str, str]]) -> None:
    """The figures that were taken, of both models, or JSON, on stdout."""
    from rich.console import Console

    from .display import metrics_table

    if as_json:
        print(json.dumps(report))
        return
    base, erased = report["base"], report["erased"]
    taken = [(k, text) for k, text in rows if (base.get(k), erased.get(k)) != (None, None)]
    Console().print(metrics_table(base, erased, taken))


def folder_of_pictures(images: Path, config, output: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Pictures made elsewhere."""
    from .evaluations import judge_folder, write_evaluation
    from .studio import team

    output_folder(output, overwrite)
    first = team().is_main_process
    with display(quiet or not first) as reporter:
        report, records = judge_folder(images, config, reporter)
    if not first:
        return
    write_evaluation(output, report, records, None, None)
    row = report["pictures"]
    if as_json:
        print(json.dumps(report))
        return
    print(f"{row['counts']['forget']} pictures: {row['detections']} detections, {row['share']:.2f} % flagged, "
          f"{row['people']:.2f} % show someone")  # fmt: skip
    for label, count in row["per_class"].items():
        print(f"  {label}: {count}")


def verify_command(adapter, results, output, overwrite, model, device, dtype, as_json: bool, quiet: bool) -> None:
    """Table and exit status of `--verify`. The pictures of a finished evaluation are refused: they would only agree."""
    from .diffusion.pipeline import EMBEDDED
    from .studio import team
    from .verification import read_results
    from .verification import verify as measure

    recorded = read_results(results or adapter)
    if "erased" not in recorded["evaluation"]:
        raise ValueError("these results are of a folder of pictures, so there is no adapter to verify")
    scale = (recorded.get("adapter") or {}).get("scale", 1.0)
    model = recorded.get("base_model") or model if model == EMBEDDED else model
    if output is not None:
        prepare(output, overwrite)
    pipe, place, _ = open_adapted(adapter, model, scale, device, dtype)
    processes = team()
    if output is None and processes.num_processes > 1:
        raise ValueError("several processes need one folder to draw into: give --output")
    with tempfile.TemporaryDirectory() as temporary, display(quiet or not processes.is_main_process) as reporter:
        verdicts, notes = measure(pipe, place, recorded, output or Path(temporary), reporter)
    if processes.is_main_process:
        show_verdicts(verdicts, notes, as_json)
    if any(verdict.agrees is False for verdict in verdicts):
        raise typer.Exit(1)


def show_verdicts(verdicts, notes: list[str], as_json: bool) -> None:
    """Each figure as recorded and as measured again."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps({"figures": [v._asdict() for v in verdicts], "differences": notes}))
        return
    words = {True: "agrees", False: "differs", None: "no interval"}
    number = lambda v: "-" if v is None else f"{v:.4g}"  # noqa: E731
    table = Table("", "figure", "recorded", "interval", "measured", "", box=None, header_style="bold")
    for v in verdicts:
        ends = "-" if v.interval is None else " to ".join(map(number, v.interval))
        table.add_row(v.side, v.figure, number(v.recorded), ends, number(v.measured), words[v.agrees])
    Console().print(table)
    for note in notes:
        print(f"note: {note}")


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `semu erase` or `semu eval` wrote.")],
    blur: Annotated[bool, typer.Option(help="Cover pictures that NudeNet flags until they are clicked.")] = True,
) -> None:
    """Write one self-contained report.html: pictures before and after, figures, ranks, protocol."""
    from .report import write_report_page

    print(write_report_page(folder, blur))
