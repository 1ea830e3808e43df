"""Training pictures per second of the classifiers, by width, precision, layout and threads, side by side in one run.

    python -m eval.classification.speed     # into eval/results/classifier_speed.json; eval.tables shows it

A step is what `semu classify` and the benchmark do: a forward and a backward pass and SGD with momentum. The ways take
turns, and the fastest of the rounds counts, as other work on the machine only ever adds. Keep it quiet all the same.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

import torch

from semu_diffusion.classification.models import MODELS, load_classifier
from semu_diffusion.classification.training import batch_loss
from semu_diffusion.versions import versions

from ..markdown import made_with, table
from ..records import command, machine, make_parser, write_json
from .report import NETS

WAYS = {
    "fp32": {},
    "fp32, channels last": {"channels_last": True},
    "bf16": {"bf16": True},
    "bf16, channels last": {"bf16": True, "channels_last": True},
}
EPOCHS, PICTURES = 30, 45_000  # of CIFAR-10, for the hours


class Trained:
    """A fresh net that takes one step at a time on pictures of CIFAR-10's size, (batch, 3, 32, 32)."""

    def __init__(self, arch: str, width: int, batch: int, bf16: bool = False, channels_last: bool = False):
        self.how = (bf16, channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = load_classifier(arch, 10, 3, width, 0).train().to(memory_format=layout)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9, nesterov=True)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(batch, 3, 32, 32, generator=generator)
        self.y = torch.randint(10, (batch,), generator=generator)

    def step(self) -> None:
        loss = batch_loss(self.model, self.x, self.y, *self.how)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def rate(self, seconds: float) -> float:
        """Pictures per second, over whole steps that take at least so long."""
        steps, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            self.step()
            steps += 1
        return steps * len(self.x) / passed


def measure(arch: str, width: int, threads: list[int], batch: int, rounds: int, seconds: float) -> dict:
    """A row: the highest rate of each way and number of threads."""
    nets = {name: Trained(arch, width, batch, **how) for name, how in WAYS.items()}
    rates = {name: dict.fromkeys(map(str, threads), 0.0) for name in nets}
    for turn, count, (name, net) in itertools.product(range(rounds + 1), threads, nets.items()):
        torch.set_num_threads(count)
        if not turn:
            net.step()  # the first one plans and allocates
        else:
            rates[name][str(count)] = max(rates[name][str(count)], net.rate(seconds))
    weights = sum(p.numel() for p in nets["fp32"].model.parameters())
    return {"arch": arch, "width": width, "weights": weights, "rates": rates}


def speed_table(found: dict) -> str:
    """A row per net: the rates with one thread, the quickest with more, and the hours that a core needs for a net."""
    most = max(found["threads"])
    rows = []
    for row in found["rows"]:
        alone, together = ([own[str(n)] for own in row["rates"].values()] for n in (1, most))
        hours = EPOCHS * PICTURES / max(alone) / 3600
        name = f"{NETS[row['arch']].removesuffix(' with BatchNorm')}, {row['width']}"
        rows.append([name, f"{row['weights'] / 1e6:.1f}", *(f"{rate:,.0f}" for rate in alone), f"{max(together):,.0f}",
                     f"{hours:.1f}"])  # fmt: skip
    head = ["net, width", "weights, M", *WAYS, f"the quickest with {most} threads", f"hours for {EPOCHS} epochs"]
    return f"{table(head, rows)}\n\n{made_with(found)}"


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--arch", action="append", choices=MODELS, help="only this one (repeatable)")
    add("--width", action="append", type=int, help="first channels (repeatable); default: 16, 32, 64")
    add("--threads", action="append", type=int, help="torch threads (repeatable); default: 1 and all cores")
    add("--batch-size", type=int, default=64, help="pictures of a step")
    add("--rounds", type=int, default=3, help="of which the fastest counts")
    add("--seconds", type=float, default=2.0, help="of a way in a round, at least")
    add("--output", type=Path, default=Path("eval/results/classifier_speed.json"))
    args = parser.parse_args(arguments)
    args.threads = sorted({1, *(args.threads or [os.cpu_count() or 1])})
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    head = {"command": command(), "versions": versions(["torch"]), "machine": machine(), "threads": args.threads,
            "batch_size": args.batch_size, "rounds": args.rounds, "seconds": args.seconds}  # fmt: skip
    rows = []
    for arch, width in itertools.product(args.arch or MODELS, args.width or (16, 32, 64)):
        rows.append(measure(arch, width, args.threads, args.batch_size, args.rounds, args.seconds))
        best = max((rate, name, n) for name, own in rows[-1]["rates"].items() for n, rate in own.items())
        print(f"{arch} {width}: {best[0]:,.0f} pictures/s, {best[1]}, threads {best[2]}", flush=True)
        write_json(args.output, {**head, "rows": rows})


if __name__ == "__main__":
    main()
