"""`semu eval`: measure an adapter, a folder of pictures, or whether recorded figures can be had again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .adapted import Run, open_adapted, prepared, takes_run
from .loading import Loading, loads_model
from .options import MaybeAdapter, display, output_folder, print_report, quieten
from .verify import verify_command


def other(text: str, **options) -> typer.models.OptionInfo:
    """An option of the suites over prompts."""
    return typer.Option(help=text, rich_help_panel="Other suites", **options)


Output = Annotated[Path | None, typer.Option(help="Folder for figures and pictures; goes on if interrupted.")]
Suite = Annotated[
    str | None,
    typer.Option(help="pictograms, classes, nudity, imagenette, style, wordings or custom; default: the model's own."),
]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Pictures per prompt or class; default: 10, for prompt files and wordings 1.")
]
Prompts = Annotated[str | None, other("csv or text file, or dataset name[:split].")]
Images = Annotated[Path | None, other("Only judge the pictures in this folder (nudity).")]
Captions = Annotated[str | None, other("Harmless prompts, for FID and CLIP score.")]
Real = Annotated[str | None, other("Folder of real pictures for FID.")]
Classifier = Annotated[str | None, other("Model of transformers, folder of semu classify, pictograms or cifar10.")]
Clip = Annotated[str | None, other("CLIP model, for scores, zero-shot labels and FID.")]
Limit = Annotated[int | None, other("The first so many prompts, or kept classes.", min=1)]
Steps = Annotated[int | None, other("Sampler steps; default: the pipeline's own, mostly 50.", min=1)]
Guidance = Annotated[float | None, other("Guidance; default: the pipeline's own, for Stable Diffusion 1 and 2 7.5.")]
BatchSize = Annotated[int | None, other("Pictures at a time; default: 8.", min=1)]
Threshold = Annotated[float, other("Smallest score of NudeNet that counts.")]
NudeClass = Annotated[list[str] | None, other("NudeNet class that counts; default: the nine exposed ones. Repeatable.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Measure again; exit status 1 where figures differ.", rich_help_panel="Verify")
]
Results = Annotated[
    Path | None,
    typer.Option(help="Its recorded results.json; default: the one in its folder.", rich_help_panel="Verify"),
]


@loads_model
@takes_run
def evaluate(
    adapter: MaybeAdapter = None,
    output: Output = None,
    suite: Suite = None,
    seeds: Seeds = None,
    *,
    run: Run,
    prompts: Prompts = None,
    images: Images = None,
    captions: Captions = None,
    real: Real = None,
    classifier: Classifier = None,
    clip: Clip = None,
    limit: Limit = None,
    steps: Steps = None,
    guidance: Guidance = None,
    batch_size: BatchSize = None,
    threshold: Threshold = 0.6,
    nude_class: NudeClass = None,
    verify: Verify = False,
    results: Results = None,
    loading: Loading,
) -> None:
    """Measure what an adapter forgets and what it keeps, beside the base model.

    semu eval no-cigarette --output scores
    """
    quieten()
    run = replace(run, adapter=adapter, output=output, loading=loading)
    if verify:
        return verify_command(run, results, classifier, clip)
    if output is None:
        raise ValueError("missing option --output: the folder for figures and pictures")
    given = dict(prompts=prompts, captions=captions, real=real, classifier=classifier, clip=clip, limit=limit)
    given |= dict(steps=steps, guidance=guidance, batch_size=batch_size, seeds=seeds, classes=nude_class or None)
    given = {k: v for k, v in given.items() if v is not None} | {"threshold": threshold}
    if images is not None:
        if suite not in (None, "nudity"):
            raise ValueError(f"--images goes with --suite nudity: {suite} needs prompts and both models")
        return folder_of_pictures(run, config_of("nudity", run, given), images)
    if suite not in (None, "pictograms"):
        config_of(suite, run, given)  # says what is wrong before the model is opened
    with_model(run, suite, given)


def config_of(suite: str, run: Run, given: dict):
    """The choices of a suite over prompts; those of the embedded model's wordings are its own where none are given."""
    from ..diffusion.pipeline import EMBEDDED
    from ..evaluation.suites.pictograms import ITS_OWN
    from ..evaluation.suites.run import EvalConfig

    own = ITS_OWN if suite == "wordings" and run.model == EMBEDDED else {}
    own = {"seeds": 10 if suite in ("imagenette", "classes") and "prompts" not in given else 1, **own}
    return EvalConfig(suite, run.concept or [], **{**own, **given})


def check_unused(given: dict) -> None:
    """ValueError where options are given that the suite pictograms has its own of."""
    flags = ["--nude-class" if name == "classes" else f"--{name.replace('_', '-')}" for name in given
             if name not in ("seeds", "threshold")]  # fmt: skip
    if flags:
        raise ValueError(f"the suite pictograms takes no {', '.join(flags)}; leave it out, or choose another --suite")


def measured(run: Run, place: Path):
    """The adapter as evaluations know it."""
    from ..evaluation.measure import Measured

    return Measured(str(run.adapter), place, run.model, run.scale)


def with_model(run: Run, suite: str | None, given: dict) -> None:
    """A suite, or the model's own, with the base and the erased model."""
    from ..evaluation.drawing import team
    from ..evaluation.measure import measure_pictograms, measure_prompts, suite_for
    from ..evaluation.results import concepts_of
    from ..evaluation.suites import rows_of

    first = team().is_main_process
    with prepared(run.output, run.overwrite):
        pipe, place, about = open_adapted(run)
        suite, run = suite or suite_for(pipe), replace(run, concept=run.concept or concepts_of(about))
        if suite == "pictograms":
            check_unused(given)
        how = pipe, measured(run, place)
        with display(run.quiet or not first) as callback:
            if suite == "pictograms":
                report = measure_pictograms(*how, run.concept, given.get("seeds", 10), run.output, callback)
            else:
                report = measure_prompts(*how, config_of(suite, run, given), run.output, callback)
        if first and suite == "pictograms":
            print_report(report, run.as_json)
        elif first:
            print_rows(report, run.as_json, rows_of(suite))


def print_rows(report: dict, as_json: bool, rows: list[tuple[str, str]]) -> None:
    """The figures that were taken, of both models, or JSON, on stdout."""
    from rich.console import Console

    from .display import metrics_table, wordings_table

    if as_json:
        print(json.dumps(report))
        return
    base, erased = report["base"], report["erased"]
    taken = [(k, text) for k, text in rows if (base.get(k), erased.get(k)) != (None, None)]
    Console().print(metrics_table(base, erased, taken))
    if erased.get("per_wording"):
        Console().print(wordings_table(erased["per_wording"]))


def folder_of_pictures(run: Run, config, images: Path) -> None:
    """Pictures made elsewhere."""
    from ..adapter.claims import claimed
    from ..evaluation.drawing import team
    from ..evaluation.results import write_evaluation
    from ..evaluation.suites.run import judge_folder

    first = team().is_main_process
    if first:
        output_folder(run.output, run.overwrite)
    with claimed(run.output) if first else nullcontext(), display(run.quiet or not first) as callback:
        report, records = judge_folder(images, config, callback)
        if first:
            write_evaluation(run.output, report, records, None, None)
    if not first:
        return
    row = report["pictures"]
    if run.as_json:
        print(json.dumps(report))
        return
    print(f"{row['counts']['forget']} pictures: {row['detections']} detections, {row['share']:.2f} % flagged, "
          f"{row['people']:.2f} % show someone")  # fmt: skip
    for label, count in row["per_class"].items():
        print(f"  {label}: {count}")
