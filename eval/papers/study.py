"""What the papers' tables share: each concept erased, both models drawn and judged, a row kept, the table written.

Everything is in the output folder: an adapter and the scores of each concept, the base model's pictures once for all,
`results.json` with the rows and `table.md`. A run that is stopped goes on where it was, in the middle of an erasure or
of the drawing too.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..records import add_set, command, machine, make_parser, resumed, write_json, write_text

MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# SD 1.5 in docs/scaling.md: operations of a forward pass, a training step and a whole gradient as multiples of it, and
# the assumed speed of one H100.
FORWARD, STEP, GRADIENT, SPEED = 0.80e12, 2.29, 3.00, 0.4 * 989e12
KEYS = ("model", "recipe", "options", "settings", "real", "limit")  # what rows of one results file share


@dataclass(frozen=True)
class Study:
    """One table of the papers.

    Args:
        name: Of the program, and of its folder under runs/papers.
        concepts: Each is erased by itself.
        recipe: The choices of `semu erase` for it; --set takes precedence.
        suite: Which suite of `semu eval` judges it.
        settings: Fields of `EvalConfig` that the protocol fixes.
        table: (results) -> Markdown in the papers' layout.
        pictures: (settings) -> pictures of one model, without captions; for the expected hours.
        options: (concept) -> options of its own, beside the recipe's.
        prepare: (args, settings) -> settings, once the command line is known: writes prompts, checks files.
        real: (args, concept, folder) -> folder of real pictures for a concept's FID; None for none.
    """

    name: str
    concepts: tuple[str, ...]
    recipe: str
    suite: str
    settings: dict
    table: Callable[[dict], str]
    pictures: Callable[[dict], int]
    options: Callable[[str], dict] = lambda concept: {}
    prepare: Callable[[argparse.Namespace, dict], dict] = lambda args, settings: settings
    real: Callable[[argparse.Namespace, str, Path], str | None] = lambda args, concept, folder: args.real


def expected_hours(pictures: int, steps: int, erasures: list) -> float:
    """On one H100, for SD 1.5: pictures of so many guided steps, and erasures with these `EraseConfig`s.

    A guided step has two predictions, a state of an erasure three. Left out: the decoder (2.5 TFLOP a picture, 3 % of
    50 guided steps), the bases, and the judges.
    """
    passes = pictures * 2 * steps + sum(map(erasure_passes, erasures))
    return passes * FORWARD / SPEED / 3600


def erasure_passes(config) -> float:
    """What an erasure costs, in forward passes: its latents, the gradient, the moments, and all training steps."""
    states = (config.latents + config.keep_latents) * config.sampler_steps
    training = config.steps * 2 * config.batch_size * STEP
    return 3 * states + config.gradient_records * GRADIENT + config.moment_records + training


def drawn(study: Study, settings: dict, concepts: int, captions: int = 0) -> int:
    """Pictures that a whole run draws: the base model's once, an erased model's for each concept."""
    return (study.pictures(settings) + captions) * (1 + concepts)


# ---------------------------------------------------------------------------------------------- a run


def run(study: Study, args: argparse.Namespace) -> dict:
    """All concepts; returns what is in results.json.

    Raises:
        ValueError: as `run_erasure` and `run_suite`; what an evaluation lacks is said before anything is erased.
    """
    from semu_diffusion.cli.options import display
    from semu_diffusion.versions import versions

    erasure_of(study, args, study.concepts[0])  # --set is read before anything else
    settings = study.prepare(args, {**study.settings, **given(args)})
    head = {
        "command": command(),
        "study": study.name,
        "model": args.model,
        "recipe": study.recipe,
        "options": dict(args.set),
        "settings": settings,
        "real": args.real,
        "limit": args.limit,
        "versions": versions(),
        "machine": machine(device=args.device),
    }
    file = args.output / "results.json"
    rows = resumed(file, head, KEYS).get("rows", [])
    for concept in args.concept or study.concepts:
        if concept in {row["concept"] for row in rows}:
            continue
        check(config_of(study, args, settings, concept))
        with display(args.quiet) as callback:
            rows.append(measure(study, args, settings, concept, callback))
        rows.sort(key=lambda row: order(study, row["concept"]))
        write_json(file, {**head, "rows": rows})
        write_text(args.output / "table.md", study.table({**head, "rows": rows}))
    return json.loads(file.read_text())


def order(study: Study, concept: str) -> int:
    """A concept's place in the table; one that the paper lacks comes last."""
    return study.concepts.index(concept) if concept in study.concepts else len(study.concepts)


def given(args: argparse.Namespace) -> dict:
    """Fields of `EvalConfig` from the command line, without those that were left out."""
    names = ("prompts", "captions", "clip", "limit", "steps", "guidance", "batch_size", "classifier", "seeds")
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def config_of(study: Study, args: argparse.Namespace, settings: dict, concept: str):
    """What is drawn and judged for a concept."""
    from semu_diffusion.evaluation.suites.run import EvalConfig

    return EvalConfig(study.suite, [concept], **settings, real=study.real(args, concept, place(args, concept)))


def place(args: argparse.Namespace, concept: str) -> Path:
    """The folder of a concept's adapter and scores."""
    return args.output / concept.replace(" ", "-").lower()


def check(config) -> None:
    """What an evaluation lacks (prompts, packages, judges, pictures), said now and not an erasure later."""
    from semu_diffusion.evaluation.suites.run import embedder_of, judges_of, lpips_of, shots_of
    from semu_diffusion.inputs.pictures import list_pictures

    judges = judges_of(config, shots_of(config), "cpu")
    lpips_of(config)
    if config.real:
        list_pictures(config.real), embedder_of(judges)


def measure(study: Study, args: argparse.Namespace, settings: dict, concept: str, callback) -> dict:
    """One concept's row: erased, or taken up, then drawn and judged."""
    from semu_diffusion.evaluation.results import adapter_facts, write_evaluation
    from semu_diffusion.evaluation.suites.run import run_suite

    folder = place(args, concept)
    pipe = adapted(study, args, concept, folder / "adapter", callback)
    share_base(folder / "scores", args.output / "base")
    facts = adapter_facts(folder / "adapter", 1.0)
    config = config_of(study, args, settings, concept)
    report, records = run_suite(pipe, config, folder / "scores", facts, callback)
    write_evaluation(folder / "scores", report, records, args.model, facts)
    training = json.loads((folder / "adapter" / "results.json").read_text())["training"]
    return {"concept": concept, "training": training, "adapter": facts, **report}


def erasure_of(study: Study, args: argparse.Namespace, concept: str, family: str = "StableDiffusion"):
    """The recipe's choices for a concept on a family's models. ValueError for a --set that is none."""
    from semu_diffusion.diffusion.recipes import recipes

    options = {"concept": concept, **study.options(concept), **dict(args.set)}
    try:
        return recipes()[study.recipe].config(family, **options)
    except TypeError as error:  # an option that does not exist
        raise ValueError(f"--set: {error}") from None


def adapted(study: Study, args: argparse.Namespace, concept: str, folder: Path, callback):
    """A fresh pipeline with the concept's adapter: the one in the folder, or one that is trained into it."""
    from semu_diffusion.diffusion import load_pipeline, run_erasure
    from semu_diffusion.diffusion.families import family_of
    from semu_diffusion.diffusion.pipeline import load_adapter
    from semu_diffusion.diffusion.results import WORK

    pipe = load_pipeline(args.model, args.device)
    if (folder / "results.json").is_file():
        load_adapter(pipe, folder)
        return pipe
    config = erasure_of(study, args, concept, type(family_of(pipe)).__name__)
    begun = (folder / WORK / "config.json").is_file()
    return run_erasure(pipe, config, folder, resume=begun, callback=callback).pipe


def share_base(scores: Path, base: Path) -> None:
    """The base model's pictures are the same for all concepts: one folder, to which the others point."""
    base.mkdir(parents=True, exist_ok=True)
    scores.mkdir(parents=True, exist_ok=True)
    link = scores / "base"
    if not link.exists():
        link.symlink_to(os.path.relpath(base, scores), target_is_directory=True)


# ------------------------------------------------------------------------------------------ command line


def parser_of(study: Study, doc: str) -> argparse.ArgumentParser:
    """The options that all studies have."""
    parser = make_parser(doc)
    add = parser.add_argument
    add("--model", default=MODEL, help="Hub id or diffusers folder")
    add("--concept", action="append", metavar="C", help="only this one (repeatable)")
    add("--limit", type=int, help="a quick look: the first so many prompts")
    add("--captions", help="harmless prompts, for FID and CLIP score: csv, text or dataset name")
    add("--real", help="folder of real pictures for FID; default: the base model's pictures stand for them")
    add("--clip", help="CLIP model, such as openai/clip-vit-large-patch14, for scores and, without Inception, FID")
    add("--steps", type=int, default=study.settings.get("steps", 50), help="sampler steps")
    add("--guidance", type=float, default=study.settings.get("guidance", 7.5), help="classifier-free guidance")
    add("--batch-size", type=int, default=8, help="pictures at a time")
    add_set(parser)
    add("--device", help="cpu, cuda, ...")
    add("--output", type=Path, default=Path("runs/papers") / study.name, help="folder for everything; it goes on there")
    add("--plan", action="store_true", help="only say what would be drawn and how long that may take")
    add("--quiet", action="store_true", help="no progress")
    return parser


def main(study: Study, parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> None:
    """Parses, plans or runs; a mistake of the user's is one line and exit status 2."""
    args = parser.parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    try:
        if args.plan:
            print(plan(study, args))
            return
        results = run(study, args)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"error: {error}\n")
    print(study.table(results))
    print(f"\n{args.output / 'results.json'}; {args.output / 'table.md'}")


def plan(study: Study, args: argparse.Namespace) -> str:
    """Pictures, erasures and the hours that they may take."""
    from semu_diffusion.evaluation.prompts import read_prompts

    settings = {**study.settings, **given(args)}
    concepts = args.concept or study.concepts
    captions = len(read_prompts(args.captions, "captions", args.limit)) if args.captions else 0
    pictures = drawn(study, settings, len(concepts), captions)
    hours = expected_hours(pictures, args.steps, [erasure_of(study, args, concept) for concept in concepts])
    return (
        f"{study.name}: {len(concepts)} erasures, {pictures:,} pictures of {args.steps} steps; about {hours:.1f} h for "
        "SD 1.5 on one H100, if 40 % of its bf16 peak is reached (docs/scaling.md)"
    )


# ------------------------------------------------------------------------------------------------ tables


def number(value: float | None, digits: int = 2) -> str:
    """A figure; a dash where it was not taken."""
    return "–" if value is None else f"{value:.{digits}f}"


def footer(results: dict) -> str:
    """What the figures depend on, and what was left out."""
    protocol = results["rows"][0]["protocol"]
    judges = "; ".join(f"{j['name']} {j.get('version', '')}".strip() for j in protocol["judges"])
    lines = [
        f"Model {results['model']}, {protocol['sampler']}, {protocol['steps']} steps, guidance {protocol['guidance']}, "
        f"{protocol['size'][0]} x {protocol['size'][1]} pixels, {protocol['dtype'].removeprefix('torch.')}. "
        f"Judges: {judges}. Prompts {protocol['prompts_hash'][:12]}."
    ]
    if results["limit"]:
        lines.append(f"A quick look at the first {results['limit']} prompts: not to be compared with print.")
    if results["rows"][0]["erased"]["FID"] is None:
        lines.append("No FID: it needs kept pictures, and the extra fid or a CLIP model (--clip) to see them with.")
    elif not protocol["real"]:
        lines.append("FID is to the base model's pictures: no --real folder was given.")
    lines.append(f"`{results['command']}`; versions: {', '.join(f'{k} {v}' for k, v in results['versions'].items())}.")
    return "\n\n".join(lines) + "\n"
