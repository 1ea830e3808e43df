"""The command line of a builder that works in stages, each of which may be run alone."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed


def stage_parser(about: str, stages: Iterable[str], workdir: str, output: Path) -> argparse.ArgumentParser:
    """The options that all builders share; they add their own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--stage", choices=[*stages], action="append", help="only this stage (may be repeated)")
    add("--workdir", type=Path, default=Path(workdir), help="pictures, states, logs")
    add("--output", type=Path, default=output, help="the diffusers folder to write")
    add("--seed", type=int, default=0)
    add("--threads", type=int, help="torch threads on a CPU")
    add("--save_every", type=float, default=120.0, help="seconds between checkpoints")
    add("--mixed_precision", choices=("no", "bf16", "fp16"), default="no")
    return parser


def run_stages(args: argparse.Namespace, stages: dict[str, Callable[[argparse.Namespace], None]]) -> None:
    """The chosen stages, by default all, in their order, each from the same seed, and how long each took."""
    if args.threads:
        torch.set_num_threads(args.threads)
    args.workdir.mkdir(parents=True, exist_ok=True)
    args.accelerator = Accelerator(mixed_precision=args.mixed_precision)
    args.device = args.accelerator.device
    for name in args.stage or stages:
        set_seed(args.seed)
        started = time.time()
        stages[name](args)
        print(f"{name}: {math.ceil(time.time() - started)} s", flush=True)
