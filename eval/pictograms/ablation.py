"""What each choice of the eraser is worth: one option changed at a time, over a few objects and styles.

    python -m eval.pictograms.ablation                                # all variants, into eval/results/ablation.json
    python -m eval.pictograms.ablation --variant default --variant euclidean --concept cigarette

The defaults of `semu erase` were chosen with this table. Pairs (variant, concept) that the results file
already holds with the same seeds are not run again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..processes import as_done
from ..records import command, machine, make_parser, resumed, write_json
from .each import erase_and_score, line, summary

CONCEPTS = ("guitar", "photo style")  # not among those that are reported
VARIANTS: dict[str, dict] = {
    "default": {},
    "euclidean": {"geometry": "euclidean"},
    "no keep loss": {"keep_weight": 0.0},
    "strength 0": {"strength": 0.0},
    "strength 1": {"strength": 1.0},
    "esd target": {"objective": "negative"},
    "random anchor": {"anchor": "random"},
    "anchor without it": {"anchor": ""},
    "gamma 0.7": {"gamma": 0.7},
    "gamma 0.95": {"gamma": 0.95},
    "paper's gamma": {"gamma_cross": 1.0},
    "cross-attention": {"target_modules": "cross-attention"},
    "self-attention": {"target_modules": "self-attention"},
    "convolutions": {"target_modules": "convolutions"},
}


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only this one (repeatable)")
    parser.add_argument("--concept", action="append", help="only this one (repeatable)")
    parser.add_argument("--seeds", type=int, default=4, help="pictures per forgotten prompt")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--output", type=Path, default=Path("eval/results/ablation.json"))
    return parser.parse_args()


def write(path: Path, head: dict, runs: dict[str, list[dict]]) -> None:
    """The results file: the rows of each variant with their summary."""
    tables = {name: {"options": VARIANTS[name], "summary": summary(rows), "rows": rows} for name, rows in runs.items()}
    write_json(path, {**head, "variants": tables})


def finished(old: dict) -> dict[str, list[dict]]:
    """The rows of an earlier run by variant; none of a variant that has changed since."""
    tables = old.get("variants", {})
    return {name: table["rows"] for name, table in tables.items() if VARIANTS.get(name) == table["options"]}


def main() -> None:
    from semu_diffusion.versions import versions

    args = parse_args()
    head = {"command": command(), "seeds_forget": args.seeds, "versions": versions()}
    head["machine"] = machine(workers=args.workers, threads=1)
    runs = finished(resumed(args.output, head, ("seeds_forget",)))
    wanted = [(v, c) for v in args.variant or VARIANTS for c in args.concept or CONCEPTS]
    todo = [(v, c) for v, c in wanted if c not in {row["concept"] for row in runs.get(v, [])}]
    jobs = [(c, VARIANTS[v], args.seeds, 1) for v, c in todo]
    for k, row in as_done(erase_and_score, jobs, args.workers):
        runs.setdefault(todo[k][0], []).append(row)
        write(args.output, head, runs)
        print(f"{todo[k][0]:<16} {line(row)}", flush=True)


if __name__ == "__main__":
    main()
