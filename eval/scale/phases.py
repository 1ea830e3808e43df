"""Where the time of an erasure goes, phase by phase, beside two other ways with as many evaluations of the denoiser.

    python -m eval.scale.phases --size pictograms                # into eval/results/phases.json
    python -m eval.scale.phases --size sd15 --latents 16         # SD1.5's real layers, random weights, few records

The others are a PEFT LoRA trained as LECO does and ESD-x (`eval.peers`). Seconds are those of the process on one
thread, so that what else the machine does counts little. Each size replaces its own row of the results file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from semu_diffusion import load_pipeline
from semu_diffusion.diffusion import EraseConfig, erasure
from semu_diffusion.diffusion.pipeline import EMBEDDED
from semu_diffusion.versions import versions

from ..peers.diffusion import Budget, Meter, Work, edit
from ..records import command, machine, make_parser, parsed, read_json, write_json
from .benchmark import ratios
from .models import as_semu, restore, write_pipeline
from .peaks import watched

OTHERS = {"LoRA as LECO": "low-rank", "ESD-x": "esd-x"}
MORE = {"plan": "make_plan", "truncate": "make_small", "write": "write_outputs"}  # functions of `erasure`
SIZES = {  # few records and steps, so that a run ends in minutes of one core
    "pictograms": {"latents": 12, "keep_latents": 20, "gradient_records": 64, "moment_records": 64, "steps": 40},
    "sd15": {"latents": 2, "keep_latents": 2, "sampler_steps": 1, "batch_size": 1, "steps": 3, "moment_records": 4,
             "gradient_records": 2},
}  # fmt: skip
SIZES["tiny"] = SIZES["sd15"]


class Clock:
    """Seconds of this process by phase; a phase inside of another is not counted twice."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, list[float]] = defaultdict(list)
        self.inside = 0.0  # of the phases that the present one has called

    def timed(self, phase: str, function: Callable) -> Callable:
        """The function, its seconds counted for the phase."""

        def run(*args, **more):
            before, self.inside, start = self.inside, 0.0, time.process_time()
            try:
                return function(*args, **more)
            finally:
                took = time.process_time() - start
                self.seconds[phase] += took - self.inside
                self.calls[phase].append(took)
                self.inside = before + took

        return run


class Shapes:
    """Seconds of every forward pass of a model by its batch and by whether it keeps what a gradient needs."""

    def __init__(self, model: nn.Module):
        self.calls: dict[tuple, list[float]] = defaultdict(list)
        self.handles = [model.register_forward_pre_hook(self.begin), model.register_forward_hook(self.end)]

    def begin(self, module: nn.Module, args: tuple) -> None:
        self.start = time.process_time()

    def end(self, module: nn.Module, args: tuple, output) -> None:
        took = time.process_time() - self.start
        self.calls[len(args[0]), torch.is_grad_enabled()].append(took)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def warm_up(self) -> dict[str, float]:
        """What the first call of each shape took beyond the median of the later ones, all shapes together."""
        over = [first - statistics.median(later) for first, *later in self.calls.values() if later]
        return {"shapes": len(self.calls), "seconds": sum(over)}


def run_ours(load: Callable[[], object], config: EraseConfig) -> tuple[dict, int]:
    """One `semu erase` without its pictures: seconds by phase, and how many samples went through the denoiser."""
    clock = Clock()
    pipe = clock.timed("load", load)()
    meter, shapes = Meter(pipe.unet), Shapes(pipe.unet)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.enter_context(watched(clock.timed))
        for phase, name in MORE.items():
            stack.enter_context(mock.patch.object(erasure, name, clock.timed(phase, getattr(erasure, name))))
        done = clock.timed("rest", erasure.run_erasure)(pipe, config, Path(folder) / "out")
    meter.close()
    shapes.close()
    first, *later = clock.calls["training"]
    warm = {"forward": shapes.warm_up(), "first step": first - statistics.median(later or [first])}
    facts = {"steps": done.facts["steps"], "step": statistics.median(later or [first]), "warm_up": warm}
    total = sum(clock.seconds.values())
    return {"seconds": total, "phases": dict(clock.seconds), **facts}, meter.samples


def run_other(load: Callable[[], object], method: str, config: EraseConfig, evaluations: int) -> dict:
    """One of the others within as many evaluations: seconds of drawing and of training."""
    clock, pipe = Clock(), load()
    budget = Budget(evaluations, config.latents, config.keep_latents, config.sampler_steps, config.guidance,
                    config.batch_size)  # fmt: skip
    with mock.patch.object(Work, "draw", clock.timed("drawing", Work.draw)):
        _, facts = clock.timed("training", edit)(method, pipe, config.concept[0], budget, 0)
    kept = {k: facts[k] for k in ("evaluations", "gradient_evaluations", "trained_percent")}
    return {"seconds": sum(clock.seconds.values()), "phases": dict(clock.seconds), **kept}


def step_ways(load: Callable[[], object], batch: int, rounds: int) -> dict:
    """A training step with an adapter in fp32, under bf16 autocast and with channels last, in turns; and ratios."""
    pipe = load()
    unet, conditions = pipe.unet.requires_grad_(False), torch.randn(batch, 32, pipe.unet.config.cross_attention_dim)
    side, channels = unet.config.sample_size, unet.config.in_channels
    as_semu(unet, 32)

    def step(autocast: bool, layout: torch.memory_format) -> float:
        unet.to(memory_format=layout)
        x = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
        took = []
        for _ in range(2):  # the first is warm-up
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = unet(x, torch.full((batch,), 500), conditions).sample
            out.float().square().mean().backward()
            took.append(time.process_time() - start)
        return took[-1]

    plain, last = torch.contiguous_format, torch.channels_last
    ways = {"fp32": (False, plain), "bf16 autocast": (True, plain), "channels last": (False, last)}
    found = [{name: step(*way) for name, way in ways.items()} for _ in range(rounds)]
    restore(unet)
    return {"batch": batch, "seconds": found, "fp32_over": ratios(found, "fp32")}


def measured(size: str, latents: int, rounds: int) -> dict:
    """The row of a size."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = EMBEDDED if size == EMBEDDED else str(write_pipeline(size, Path(folder), latents))
        load = lambda: load_pipeline(model, "cpu")  # noqa: E731
        own = {"sampler_steps": 10, "guidance": 3.0} if size == EMBEDDED else {"guidance": 7.5}
        config = EraseConfig("cigarette", **{**own, **SIZES[size]})
        ours, evaluations = run_ours(load, config)
        print(json.dumps(ours), flush=True)
        rows = {"ours": {**ours, "evaluations": evaluations}}
        for title, method in OTHERS.items():
            rows[title] = run_other(load, method, config, evaluations)
            print(title, json.dumps(rows[title]), flush=True)
        more = {"step_ways": step_ways(load, 2 * config.batch_size, rounds)} if size == EMBEDDED else {}
    return {"latents": latents, "options": {**own, **SIZES[size]}, "rows": rows, **more}


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default=EMBEDDED)
    parser.add_argument("--latents", type=int, default=8, help="height and width of the latents of random weights")
    parser.add_argument("--rounds", type=int, default=3, help="of the ways to take a step, on the embedded model")
    parser.add_argument("--output", type=Path, default=Path("eval/results/phases.json"))
    return parsed(parser)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    head = {"command": command(), "versions": versions(), "machine": machine(workers=1, threads=1)}
    found = {**head, **measured(args.size, args.latents, args.rounds)}
    write_json(args.output, {**read_json(args.output), args.size: found})


if __name__ == "__main__":
    main()
