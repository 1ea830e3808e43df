"""What to draw instead, with and without more care for what is nearest: on concepts that are not reported.

    python -m eval.pictograms.anchors                                # into eval/results/anchors.json
    python -m eval.pictograms.anchors --anchor chosen --near 0.5 --concept guitar

The default anchor, its strength and the share of the keep prompts that are about neighbours come from this table. Rows
that the results file has are not run again; the most telling come first, each on all concepts before the next.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..processes import as_done
from ..records import command, machine, make_parser, resumed, write_json
from .each import erase_and_score, line

CONCEPTS = ("guitar", "cat", "photo style")
# The strength that each needs: one thing is reached where the push ends, nothing and a mean of many are not.
ANCHORS: dict[str, dict] = {
    "chosen": {"strength": 0.25},
    "nothing": {"anchor": "", "strength": 0.75},
    "nearest": {"anchor": "nearest", "strength": 0.25},
    "random": {"anchor": "random", "strength": 0.25},
    "chosen, strength 0": {"strength": 0.0},
    "chosen, strength 0.75": {"strength": 0.75},
}
NEAR = (0.5, 0.0)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--anchor", action="append", choices=ANCHORS, help="only this one (repeatable)")
    parser.add_argument("--near", action="append", type=float, choices=NEAR, help="only this share (repeatable)")
    parser.add_argument("--concept", action="append", choices=CONCEPTS, help="only this one (repeatable)")
    parser.add_argument("--seeds", type=int, default=6, help="pictures per forgotten prompt")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--output", type=Path, default=Path("eval/results/anchors.json"))
    return parser.parse_args()


def order(row: dict) -> tuple:
    """By concept, as the table has it."""
    return CONCEPTS.index(row["concept"]), list(ANCHORS).index(row["anchor"]), NEAR.index(row["near"])


def main() -> None:
    from semu_diffusion.versions import versions

    args = parse_args()
    head = {"command": command(), "seeds_forget": args.seeds, "versions": versions()}
    head["machine"] = machine(workers=args.workers, threads=1)
    rows = resumed(args.output, head, ("seeds_forget",)).get("rows", [])
    done = {(row["anchor"], row["near"], row["concept"]) for row in rows}
    wanted = [(a, n, c) for n in args.near or NEAR for a in args.anchor or ANCHORS for c in args.concept or CONCEPTS]
    todo = [own for own in wanted if own not in done]
    jobs = [(c, {**ANCHORS[a], "near": n}, args.seeds, 1) for a, n, c in todo]
    for k, found in as_done(erase_and_score, jobs, args.workers):
        anchor, near, _ = todo[k]
        row = {"anchor": anchor, "near": near, **found}
        rows = sorted([*rows, row], key=order)
        write_json(args.output, {**head, "rows": rows})
        print(f"{anchor:<22} near {near:g}  {line(row)}", flush=True)


if __name__ == "__main__":
    main()
