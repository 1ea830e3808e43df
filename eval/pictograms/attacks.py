"""Attacks and recovery on the base model and on the benchmark's methods, with the settings chosen there.

    python -m eval.pictograms.attacks                    # into eval/results/attacks.json, after the benchmark
    python -m eval.pictograms.attacks --method ours-remain --method esd-x --concept knife --attack inversion

Without --method: the methods that forget and keep the rest. Each finished attack is written at once and not run again;
more methods, concepts and attacks join the file.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from semu_diffusion.attacks import ATTACKS, AttackConfig, Target, run_attacks
from semu_diffusion.attacks.judge import draw_references, pictograms_judge
from semu_diffusion.attacks.suite import Attacker

from ..peers.diffusion import METHODS, Budget, edit
from ..records import command, machine, make_parser, read_json, resumed, write_json
from .benchmark import base_pipeline, run_all
from .each import CONCEPTS
from .jobs import Job, attackable, fingerprint, key_of, model_file, save_denoiser

TARGETS = ("knife", "dog", "neon style")
BASE = "base"  # no edit at all
PHASE = "attack "
CACHE: dict = {}  # per worker process: the judge's references, the last model and its attacker
# As hard as some hours of two cores allow. A first round on knife, with 4 pictures per prompt and 200 steps of
# inversion, hardly told the edited models apart, so both were raised for all before the rows of the table.
CONFIG = AttackConfig(seeds=8, contexts=4, iterations=20, candidates=8, relearn_steps=(0, 10, 25, 50, 100))


def edited_pipeline(job: Job, budget: Budget, models: Path | None = None):
    """The embedded model as a job edits it: from `models` where it is there, else edited again, and left there."""
    from semu_diffusion.diffusion import load_pipeline

    pipe = load_pipeline("pictograms")
    if models and (file := model_file(models, job)).exists():
        pipe.unet.load_state_dict(load_file(file))
    elif job.method != BASE:
        edit(job.method, pipe, job.concept, budget, job.seed, **job.hyper)
        if models:
            save_denoiser(pipe, file)
    return pipe


def attacker_for(job: Job, budget: Budget, config: AttackConfig, models: Path | None = None) -> Attacker:
    """The base model and the edited one, with the pictograms' judge."""
    from semu_diffusion.diffusion.concepts import vocabulary_of
    from semu_diffusion.diffusion.pipeline import model_path

    pipe, base = edited_pipeline(job, budget, models), Target(base_pipeline())
    if "references" not in CACHE:
        CACHE["references"] = draw_references(base, config)
    judge = pictograms_judge(base, job.concept, config, CACHE["references"])
    return Attacker(Target(pipe), base, job.concept, vocabulary_of(model_path("pictograms")), judge, config)


def work(job: Job, budget: Budget, config: AttackConfig, threads: int, models: Path | None = None) -> dict:
    """A job in a worker process; the model of the last job is kept for further attacks on it."""
    import torch

    torch.set_num_threads(threads)
    model, name = (job.method, job.concept), job.phase.removeprefix(PHASE)
    if CACHE.get("model") != model:
        CACHE.update(model=model, attacker=attacker_for(job, budget, config, models))
    started = time.perf_counter()
    result = run_attacks(CACHE["attacker"], [name])[name]
    seconds = time.perf_counter() - started
    return {**asdict(job), "attack": name, "prompts": CACHE["attacker"].prompts, "seconds": seconds, "result": result}


def line(row: dict) -> str:
    """A row for the terminal."""
    success, seconds = 100 * row["result"]["success"], row["seconds"]
    return f"{row['method']:<20} {row['concept']:<14} {row['attack']:<13} {success:5.1f} %  {seconds:.0f} s"


def write(path: Path, head: dict, rows: list[dict]) -> None:
    """The results file, rows in an order of their own."""
    write_json(path, {**head, "rows": sorted(rows, key=key_of)})


def current(rows: list[dict], summary: dict) -> list[dict]:
    """The attacks on what the benchmark reports now, less those on settings that it chose before; says how many."""
    own = [r for r in rows if r["method"] == BASE or r["hyper"] == summary.get(r["method"], {}).get("hyper")]
    if left := len(rows) - len(own):
        print(f"left out: {left} attacks on settings that the benchmark no longer reports", flush=True)
    return own


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--benchmark", type=Path, default=Path("eval/results/benchmark.json"))
    parser.add_argument("--concept", action="append", choices=CONCEPTS, metavar="C", help="only this (repeatable)")
    parser.add_argument("--method", action="append", choices=[BASE, *METHODS], help="only this one (repeatable)")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only this one (repeatable)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="attacks at a time")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each worker")
    parser.add_argument("--models", type=Path, help="folder that eval/pictograms/benchmark.py left edited models in")
    parser.add_argument("--output", type=Path, default=Path("eval/results/attacks.json"))
    return parser.parse_args()


def main() -> None:
    from semu_diffusion.diffusion.pipeline import model_path
    from semu_diffusion.versions import versions

    args = parse_args()
    if not args.benchmark.exists():
        sys.exit(f"error: {args.benchmark} is not there; run python -m eval.pictograms.benchmark first")
    bench = read_json(args.benchmark)
    model = fingerprint(Path(model_path("pictograms")))
    if bench["protocol"]["model"] != model:
        sys.exit(f"error: {args.benchmark} was made with another model; run eval/pictograms/benchmark.py again")
    methods = args.method or [BASE, *attackable(bench["summary"])]
    missing = [m for m in methods if m != BASE and m not in bench["summary"]]
    if missing:
        sys.exit(f"error: {args.benchmark} has no reported row of {missing[0]}; run it with --method {missing[0]}")
    budget, config = Budget(**bench["protocol"]["budget"]), CONFIG
    head = {"command": command(), "versions": versions(),
            "machine": machine(workers=args.workers, threads=args.threads),
            "protocol": {"model": model, "budget": asdict(budget), "attack": asdict(config)}}  # fmt: skip
    rows = current(resumed(args.output, head, ("protocol",)).get("rows", []), bench["summary"])
    hyper = {m: {} if m == BASE else bench["summary"][m]["hyper"] for m in methods}
    jobs = [Job(PHASE + name, m, c, 0, hyper[m])
            for c in args.concept or TARGETS for m in methods for name in args.attack or ATTACKS]  # fmt: skip
    run = functools.partial(work, budget=budget, config=config, threads=args.threads, models=args.models)
    save = functools.partial(write, args.output, head, rows)
    run_all(jobs, rows, run, save, args.workers, line)
    save()  # with this command, also where earlier ones left nothing to run


if __name__ == "__main__":
    main()
