"""All peers and ours on the embedded model: search on validation concepts, then several concepts and three seeds.

    python -m eval.pictograms.benchmark                          # everything, into eval/results/benchmark.json
    python -m eval.pictograms.benchmark --method uce --search-only  # a part of it; what is there is not run again
    python -m eval.pictograms.benchmark --method uce --method ours-remain --concept knife --seeds 1
    python -m eval.pictograms.page                                # docs/benchmark.md and its plot from that file

Each finished edit is written at once; what the file holds already is not run again. So all methods may get one seed
first, and the best of them more: the same command with --method and --seeds 3.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from ..peers.diffusion import METHODS, Budget
from ..processes import as_done
from ..records import command, machine, make_parser, resumed
from .each import CONCEPTS
from .jobs import (
    REPORTED,
    VALIDATION,
    Job,
    choose,
    final_jobs,
    fingerprint,
    harmonic,
    key_of,
    report_jobs,
    run_job,
    search_jobs,
    write,
)

CACHE: dict = {}  # the base model's pictures, per worker process


@functools.cache
def base_pipeline():
    """The base model of this process."""
    from semu_diffusion.diffusion import load_pipeline

    return load_pipeline("pictograms")


def pictograms_judge(pipe, concept: str, seeds: int, reworded: bool = False) -> tuple[dict, dict]:
    """The rows of the pictograms suite for the base and the edited pipeline; UA in unseen wordings where asked for."""
    from semu_diffusion.diffusion import draw
    from semu_diffusion.diffusion.concepts import name_of
    from semu_diffusion.evaluation.grid import evaluate
    from semu_diffusion.evaluation.proper import load_references
    from semu_diffusion.evaluation.suites.pictograms import GUIDANCE, SAMPLER_STEPS
    from semu_diffusion.pictograms.oracle import load_oracle

    from .unseen import unseen

    own, base = (
        functools.partial(draw, p, steps=SAMPLER_STEPS, guidance=GUIDANCE) for p in (pipe, base_pipeline())
    )  # fmt: skip
    references = load_references()
    oracle = load_oracle()
    report, _ = evaluate(base, own, [name_of(concept)], oracle, seeds, base_cache=CACHE, references=references)
    more = {"unseen": unseen(pipe, concept, base, own, oracle, CACHE)} if reworded else {}
    return report["base"], {**report["erased"], **more}


def work(job: Job, budget: Budget, seeds: int, threads: int, models: Path | None) -> dict:
    """A job in a worker process."""
    import torch

    from semu_diffusion.diffusion import load_pipeline

    torch.set_num_threads(threads)
    judge = functools.partial(pictograms_judge, seeds=seeds, reworded=job.phase == "report")
    return run_job(job, functools.partial(load_pipeline, "pictograms"), judge, budget, models)


def run_all(
    jobs: Iterable[Job],
    rows: list[dict],
    run: Callable[[Job], dict],
    save: Callable[[], None],
    workers: int,
    tell: Callable[[dict], str] | None = None,
) -> None:
    """Runs the jobs that have no row yet, `workers` at a time, and saves after each; rows grow in place."""
    done = {key_of(row) for row in rows}
    todo = [job for job in jobs if job.key not in done]
    print(f"{len(todo)} edits to run", flush=True)
    for _, row in as_done(run, [(job,) for job in todo], workers):
        rows.append(row)
        save()
        print((tell or line)(row), flush=True)


def search(methods: list[str], rows: list[dict], run: Callable[[list[Job]], None]) -> tuple[dict, dict]:
    """The chosen setting of each method, and that with its other prompts, after the search; some take another's."""
    source, validation = {m: METHODS[m].like or m for m in methods}, list(VALIDATION)
    searched = list(dict.fromkeys(source.values()))
    run(search_jobs(searched, validation))
    run(final_jobs(rows, searched, validation))
    best = {m: choose(rows, own, validation) for m, own in source.items()}
    chosen = {m: {**own[0], **METHODS[m].more} for m, own in best.items()}
    return chosen, {m: own[1] for m, own in best.items() if len(own) > 1}


def line(row: dict) -> str:
    """A row for the terminal."""
    name = f"{row['phase']:<7} {row['method']:<20} {row['concept']:<16} seed {row['seed']}"
    if "error" in row:
        return f"{name}  {row['error']}"
    scores, cost = row["scores"], row["cost"]
    shown = "  ".join(f"{k} {scores[k]:.1f}" for k in ("UA", "IRA", "CRA", "natural"))
    return f"{name}  {shown}  mean {harmonic(scores):.1f}  {cost['seconds']:.0f} s, {cost['evaluations']} evaluations"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    free = [c for c in CONCEPTS if c not in VALIDATION]
    parser.add_argument("--concept", action="append", choices=free, metavar="C", help="report only this (repeatable)")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one (repeatable)")
    parser.add_argument("--search-only", action="store_true", help="search, and report nothing yet")
    parser.add_argument("--seeds", type=int, default=3, help="edits per method and concept, seeds 0, 1, ...")
    parser.add_argument("--pictures", type=int, default=4, help="pictures per forgotten prompt")
    parser.add_argument("--evaluations", type=int, default=Budget.evaluations, help="budget of each edit")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="edits at a time")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each worker")
    parser.add_argument("--models", type=Path, help="folder for the edited models, for eval/pictograms/attacks.py")
    parser.add_argument("--output", type=Path, default=Path("eval/results/benchmark.json"))
    return parser.parse_args(argv)


def main() -> None:
    from semu_diffusion.diffusion.pipeline import model_path
    from semu_diffusion.versions import versions

    args = parse_args()
    budget, methods = Budget(evaluations=args.evaluations), args.method or list(METHODS)
    protocol = {
        "model": fingerprint(Path(model_path("pictograms"))),
        "budget": asdict(budget),
        "pictures": args.pictures,
        "validation": list(VALIDATION),
        "search": "3 x 2 crossed, for each kind of prompts; the better half of each on the second concept too",
        "chosen": "by the harmonic mean of UA, IRA, CRA and natural",
    }
    head = {"command": command(), "protocol": protocol, "versions": versions(),
            "machine": machine(workers=args.workers, threads=args.threads)}  # fmt: skip
    rows = resumed(args.output, head, ("protocol",)).get("rows", [])
    run = functools.partial(work, budget=budget, seeds=args.pictures, threads=args.threads, models=args.models)
    save = functools.partial(write, args.output, head, rows)
    chosen, others = search(methods, rows, lambda jobs: run_all(jobs, rows, run, save, args.workers))
    for name, hyper in chosen.items():
        print(f"{name}: {hyper}" + (f"; otherwise {others[name]}" if name in others else ""), flush=True)
    concepts = args.concept or list(REPORTED)
    jobs = report_jobs(methods, concepts, list(range(args.seeds)), chosen, others)
    run_all([] if args.search_only else jobs, rows, run, save, args.workers)
    save()  # with this command, also where earlier ones left nothing to run


if __name__ == "__main__":
    main()
