"""Erases each of the 24 objects and 6 styles of the embedded model, one at a time, and scores what is left.

    python -m eval.pictograms.each                                   # all 30, into eval/results/pictograms.json
    python -m eval.pictograms.each --concept cigarette --concept "sepia style" --set lr=5e-3

Concepts that the results file already holds with the same options are not run again, so an interrupted run goes on.
Every option is the default of `semu erase` unless --set says otherwise; nothing is tuned per concept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

from semu_diffusion.pictograms.words import OBJECTS, STYLES

from ..processes import as_done
from ..records import add_set, command, machine, make_parser, read_json, resolved, resumed, write_json

CONCEPTS = [*OBJECTS, *(f"{style} style" for style in STYLES)]
KEYS = ("UA", "IRA", "CRA", "neighbours", "context", "natural", "FID", "drift")
CACHE: dict = {}  # the base model's pictures, per worker process


def erase_and_score(concept: str, options: dict, seeds: int, threads: int, adapters: Path | None = None) -> dict:
    """One concept: a fresh pipeline, `erase`, the pictograms suite; the adapter is written where there is a folder."""
    import torch

    from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure
    from semu_diffusion.evaluation.suites.pictograms import run_pictograms

    torch.set_num_threads(threads)
    pipe = load_pipeline("pictograms")
    folder = adapters and adapters / concept.replace(" ", "-")
    erasure = run_erasure(pipe, EraseConfig(concept=concept, **options), folder, overwrite=True)
    report, _ = run_pictograms(pipe, [concept], seeds_forget=seeds, cache=CACHE)
    training = {k: erasure.facts[k] for k in ("seconds", "steps", "left", "layers", "trained", "trained_percent")}
    return {"concept": concept, "anchors": erasure.facts["anchors"][concept], "training": training, **report}


def summary(rows: list[dict]) -> dict:
    """Means over the concepts, the worst UA, and the largest share of trained weights."""
    values = lambda side, key: [v for r in rows if (v := r[side].get(key)) is not None]  # noqa: E731
    means = {
        side: {k: statistics.fmean(values(side, k)) for k in KEYS if values(side, k)} for side in ("base", "erased")
    }
    worst = min(rows, key=lambda r: r["erased"]["UA"])
    return {
        "concepts": len(rows),
        **means,
        "worst_UA": [worst["concept"], worst["erased"]["UA"]],
        "IRA_change": means["erased"]["IRA"] - means["base"]["IRA"],
        "CRA_change": means["erased"]["CRA"] - means["base"]["CRA"],
        "trained_percent": max(r["training"]["trained_percent"] for r in rows),
        "seconds": statistics.fmean(r["training"]["seconds"] for r in rows),
    }


def header(args: argparse.Namespace, options: dict) -> dict:
    """What the numbers depend on."""
    from semu_diffusion.versions import versions

    return {
        "command": command(),
        "options": resolved(options),
        "seeds_forget": args.seeds,
        "versions": versions(),
        "machine": machine(workers=args.workers, threads=args.threads),
    }


def write(path: Path, head: dict, rows: list[dict]) -> None:
    """The results file: rows in the order of the concepts, and their summary."""
    rows = sorted(rows, key=lambda r: CONCEPTS.index(r["concept"]))
    write_json(path, {**head, "summary": summary(rows), "rows": rows})


def line(row: dict) -> str:
    """A row for the terminal."""
    base, erased, training = row["base"], row["erased"], row["training"]
    scores = "  ".join(f"{k} {erased[k]:.1f}" for k in ("UA", "IRA", "CRA"))
    before = f"(base IRA {base['IRA']:.1f} CRA {base['CRA']:.1f})"
    cost = f"{training['steps']} steps, {training['seconds']:.0f} s, left {training['left']:+.2f}"
    return f"{row['concept']:<18} {scores}  {before}  drift {erased['drift']:.4f}  {cost}"


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--concept", action="append", choices=CONCEPTS, metavar="C", help="only this one (repeatable)")
    add_set(parser)
    parser.add_argument("--seeds", type=int, default=10, help="pictures per forgotten prompt")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="concepts at a time")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each worker")
    parser.add_argument("--adapters", type=Path, help="a folder to leave the adapters in, one per concept")
    parser.add_argument("--output", type=Path, default=Path("eval/results/pictograms.json"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    options = dict(args.set)
    head = header(args, options)
    rows = resumed(args.output, head, ("options", "seeds_forget")).get("rows", [])
    todo = [c for c in args.concept or CONCEPTS if c not in {r["concept"] for r in rows}]
    jobs = [(c, options, args.seeds, args.threads, args.adapters) for c in todo]
    for _, row in as_done(erase_and_score, jobs, args.workers):
        rows.append(row)
        write(args.output, head, rows)
        print(line(row), flush=True)
    print(json.dumps(read_json(args.output)["summary"], indent=1))


if __name__ == "__main__":
    main()
