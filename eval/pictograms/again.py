"""Rows of the results files, run once more by the code of today: whether they come out as they are in the files.

    python -m eval.pictograms.again                     # two rows of each file, into eval/results/again.json
    python -m eval.pictograms.again --file many --rows 4 --seed 1

The files took days and were written by several commits. A row that comes out the same to the last digit, times and
memory aside, says that what changed between did not touch it. Every edit is made anew; nothing kept is taken.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..records import command, machine, make_parser, read_json, write_json

RESULTS = Path("eval/results")
TIMED = ("seconds", "row_seconds", "peak_memory_mb", "model_memory_mb")
OBJECTS = 2  # of a row of many.json: each is an erasure


def each(row: dict, found: dict, work: Path) -> dict:
    """A row of pictograms.json."""
    from .each import erase_and_score

    return erase_and_score(row["concept"], found["options"], found["seeds_forget"], found["machine"]["threads"], work)


def benchmark(row: dict, found: dict, work: Path) -> dict:
    """A row of benchmark.json."""
    from ..peers.diffusion import Budget
    from .benchmark import work as run
    from .jobs import job_of

    protocol = found["protocol"]
    return run(job_of(row), Budget(**protocol["budget"]), protocol["pictures"], found["machine"]["threads"], None)


def attacks(row: dict, found: dict, work: Path) -> dict:
    """A row of attacks.json."""
    from ..peers.diffusion import Budget
    from .attacks import CONFIG
    from .attacks import work as run
    from .jobs import job_of

    return run(job_of(row), Budget(**found["protocol"]["budget"]), CONFIG, found["machine"]["threads"], None)


def many(row: dict, found: dict, work: Path) -> dict:
    """A row of many.json."""
    import torch

    from .many import score

    torch.set_num_threads(found["machine"]["threads"])
    own = argparse.Namespace(options=found["options"], joint_options=found["joint_options"], energy=found["energy"],
                             seeds=found["seeds_forget"], work=work)  # fmt: skip
    return score(row["way"], row["concepts"], own)


def lasting(row: dict, found: dict, work: Path) -> dict:
    """A row of lasting.json."""
    import torch

    from .lasting import attacked, scored

    torch.set_num_threads(found["machine"]["threads"])
    own = argparse.Namespace(options=found["set"], seeds=found["seeds"], most=found["most"], work=work, models=None,
                             bench=read_json(RESULTS / "benchmark.json"))  # fmt: skip
    names = ("attack", "rate", "pictures") if "attack" in row else ()
    return (attacked if names else scored)(row["way"], row["concept"], *(row[name] for name in names), own)


FILES = {"pictograms": each, "benchmark": benchmark, "attacks": attacks, "many": many, "lasting": lasting}


def sample(name: str, rows: list[dict], many: int, seed: int) -> list[dict]:
    """Some rows by chance; of the search none, as no page shows it, and of many objects those of two."""
    free = [r for r in rows if r.get("phase") != "search" and r.get("count", OBJECTS) == OBJECTS]
    return random.Random(f"{name} {seed}").sample(free, min(many, len(free)))


def leaves(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """The numbers and words in a row by where they are, without times and memory."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield ".".join(path), value
    for key, own in inner or ():
        if key not in TIMED:
            yield from leaves(own, (*path, str(key)))


def differences(old: dict, new: dict) -> dict[str, list]:
    """Where -> what the file has and what came out now; what the file lacks does not count."""
    before, now = dict(leaves(old)), dict(leaves(json.loads(json.dumps(new))))
    return {key: [value, now.get(key)] for key, value in before.items() if key not in now or now[key] != value}


def which(row: dict) -> dict:
    """What tells a row from the others of its file."""
    names = ("phase", "method", "way", "concept", "concepts", "seed", "attack", "rate", "pictures")
    return {name: row[name] for name in names if name in row}


def again(name: str, row: dict, found: dict) -> dict:
    """A row of a file, run once more."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        new = FILES[name](row, found, Path(folder))
    inputs = ("way", "concept", "concepts", "attack", "rate", "pictures", "change_from_alone")  # of other files, too
    old = {key: value for key, value in row.items() if key in new or key not in inputs}
    return {"file": name, **which(row), "differences": differences(old, new),
            "seconds": round(time.perf_counter() - started, 1)}  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--file", action="append", choices=FILES, help="only this one (repeatable)")
    parser.add_argument("--rows", type=int, default=2, help="rows of each file")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of rows")
    parser.add_argument("--output", type=Path, default=RESULTS / "again.json")
    return parser.parse_args()


def main() -> None:
    from semu_diffusion.cli.options import quieten
    from semu_diffusion.versions import versions

    quieten()
    args, rows = parse_args(), []
    head = {"command": command(), "versions": versions(), "machine": machine(workers=1)}
    for name in args.file or FILES:
        found = read_json(RESULTS / f"{name}.json")
        for row in sample(name, found.get("rows", []), args.rows, args.seed):
            rows.append(again(name, row, found))
            write_json(args.output, {**head, "same": sum(not r["differences"] for r in rows), "rows": rows})
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
