"""CPU seconds of one erasure with the defaults, by stage: of this checkout, and of earlier commits side by side.

    python -m eval.pictograms.seconds --against HEAD~20 --against v0.1      # into eval/results/seconds.json

Each commit is measured by its own code in a process of its own, in turn, with one thread; the fastest of its runs
counts, as other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ..records import command, machine, make_parser, write_json

# What every commit since the first defaults can run.
MEASURED = """
import json, sys, time
import semu_diffusion
import torch
torch.set_num_threads(1)
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure

class Clock(Callback):
    def __init__(self):
        self.stages, self.now = {}, ("preparation", time.process_time())
    def stage(self, name, total=0):
        (last, begun), end = self.now, time.process_time()
        self.stages[last] = round(self.stages.get(last, 0) + end - begun, 2)
        self.now = (name, end)

pipe, clock = load_pipeline("pictograms"), Clock()
erasure = run_erasure(pipe, EraseConfig(concept=sys.argv[1]), None, callback=clock)
clock.stage("end")
facts = {k: erasure.facts[k] for k in ("steps", "left", "trained_percent")}
assert semu_diffusion.__file__.startswith(sys.argv[2]), semu_diffusion.__file__
print(json.dumps({"cpu_seconds": round(sum(clock.stages.values()), 2), "stages": clock.stages, **facts}))
"""


def git(*args: str) -> bytes:
    """What git prints. SystemExit with its words where it fails."""
    done = subprocess.run(["git", *args], capture_output=True)
    if done.returncode:
        raise SystemExit(f"error: git {' '.join(args)}: {done.stderr.decode().strip()}")
    return done.stdout


def measured(concept: str, code: Path) -> dict:
    """One erasure by the package in a folder, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(  # in the folder, as -c puts the working directory before all else
        [sys.executable, "-c", MEASURED, concept, str(code)], env=environment, cwd=code, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def best(commit: str, runs: list[dict]) -> dict:
    """A commit's fastest run, and the seconds of all."""
    return {"commit": commit, **min(runs, key=lambda r: r["cpu_seconds"]), "all": [r["cpu_seconds"] for r in runs]}


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--concept", default="dog", help="what is erased")
    parser.add_argument("--against", action="append", default=[], metavar="COMMIT", help="beside this one (repeatable)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each")
    parser.add_argument("--output", type=Path, default=Path("eval/results/seconds.json"))
    return parser.parse_args()


def main() -> None:
    from semu_diffusion.versions import versions

    args, runs = parse_args(), {}
    commits = {git("rev-parse", "--short", ref).decode().strip(): ref for ref in ("HEAD", *args.against)}
    head = {"command": command(), "concept": args.concept, "repeats": args.repeats, "versions": versions()}
    head["machine"] = machine(workers=1, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        for commit in commits:
            with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "semu_diffusion"))) as archive:
                archive.extractall(Path(scratch) / commit, filter="data")
        for _ in range(args.repeats):
            for commit in commits:
                runs.setdefault(commit, []).append(measured(args.concept, Path(scratch) / commit))
                print(commit, json.dumps(runs[commit][-1]), flush=True)
                write_json(args.output, {**head, "rows": [best(*run) for run in runs.items()]})


if __name__ == "__main__":
    main()
