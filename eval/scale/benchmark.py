"""What erasing costs on a model of real size, beside LoRA, full fine-tuning and the published procedure.

    python -m eval.scale.benchmark                       # SD1.5's UNet, all sections, into eval/results/scale.json
    python -m eval.scale.benchmark --only svd --rounds 2
    python -m eval.scale.benchmark --size tiny --output scale.json   # seconds, to see that it runs

Random weights and data: time and memory do not depend on them, the quality of a basis is compared with the exact one
of the same gradient. Methods take turns within a round, ratios are taken within a round and given with their spread,
so that what else the machine does hits all alike. Each section replaces its own part of the results file.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from semu_diffusion.adapter import SemuConfig, find_layers
from semu_diffusion.adapter.decompose import decompose, side_by_side
from semu_diffusion.adapter.subspace import all_bases, at_once
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.versions import versions

from ..records import command, machine, make_parser, parsed, read_json, write_json
from .models import CONFIGS, VARIANTS, inputs, make, merge, restore, shapes, unmerge, write_pipeline

GAMMA = 0.9
PASSES = ("base", "semu", "lora", "semu merged", "base again")


# ----------------------------------------------------------------------------------------------- measuring


class Extra:
    """Highest extra memory (bytes) of a block; on the CPU sampled from the process's resident set."""

    def __enter__(self) -> Extra:
        gc.collect()
        self.before = self.peak = self.now()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.running = not torch.cuda.is_available()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.running = False
        self.thread.join()
        top = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else max(self.peak, self.now())
        self.bytes = max(0, top - self.before)

    def now(self) -> int:
        if torch.cuda.is_available():
            return torch.cuda.memory_allocated()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.now())
            time.sleep(0.01)


def synchronize() -> None:
    """Waits for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most over the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(rounds: list[dict[str, float]], of: str) -> dict[str, dict[str, float]]:
    """`of` over each of the others, round by round."""
    return {name: spread([r[of] / r[name] for r in rounds]) for name in rounds[0] if name != of}


def table(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Seconds of each method."""
    return {name: spread([r[name] for r in rounds]) for name in rounds[0]}


# --------------------------------------------------------------------------------------------------- SVD


def gradient(m: int, n: int, kind: str, generator: torch.Generator, device: str) -> torch.Tensor:
    """A random matrix, or one whose k-th singular value falls as 1 / k down to a floor of noise."""
    G = torch.randn(m, n, generator=generator).to(device)
    if kind == "random":
        return G
    k = min(m, n, 256)
    A, B = (torch.randn(side, k, generator=generator).to(device) / side**0.5 for side in (m, n))
    return (A / torch.arange(1, k + 1, device=device)) @ B.T + 1e-2 / (m + n) ** 0.5 * G / max(m, n) ** 0.5


def exact(stack: torch.Tensor) -> list[torch.Tensor]:
    """Singular values of every flattened gradient; its vectors are found too, and thrown away."""
    return [torch.linalg.svd(G, full_matrices=False)[1] for G in stack]


def published(stack: torch.Tensor, shape: tuple[int, ...]) -> None:
    """The published procedure: for convolutions a batched SVD of (out, kh kw) over the input channels."""
    for G in stack:
        if len(shape) == 4:
            torch.linalg.svd(G.view(shape).permute(1, 0, 2, 3).flatten(2), full_matrices=False)
        else:
            torch.linalg.svd(G, full_matrices=False)


def stacks(layers: dict[str, tuple[int, ...]], kind: str, seed: int, device: str) -> list[tuple]:
    """(stack of gradients (L, m, n), shape of their weights) of all layers, in the order and sizes of `all_bases`."""
    generator, found = torch.Generator().manual_seed(seed), []
    for shape, count in sorted(Counter(layers.values()).items(), key=lambda item: -math.prod(item[0])):
        m, n = shape[0], math.prod(shape[1:])
        most = at_once(torch.Size((m, n)), torch.device(device))
        for size in [most] * (count // most) + [count % most] * (count % most > 0):
            found.append((torch.stack([gradient(m, n, kind, generator, device) for _ in range(size)]), shape))
    return found


def svd_round(layers: dict[str, tuple[int, ...]], kind: str, rank: int, seed: int, device: str) -> tuple[dict, list]:
    """Seconds of the three ways over all layers, and what share of the exact energy each of our bases keeps."""
    all_, bases, values, kept = stacks(layers, kind, seed, device), [], [], []
    ours = lambda part: decompose(part[0], GAMMA, rank)  # noqa: E731
    seconds = {
        "semu": timed(lambda: bases.extend(side_by_side(ours, all_, torch.device(device)))),
        "published": timed(lambda: [published(stack, shape) for stack, shape in all_]),
        "exact": timed(lambda: values.extend(exact(stack) for stack, _ in all_)),
    }
    for (stack, _), found, singular in zip(all_, bases, values):
        for G, basis, S in zip(stack, found, singular):
            own = (basis.U.T @ G).square().sum() / S[: basis.rank].square().sum()
            kept.append({"shape": list(G.shape), "rank": basis.rank, "of_exact": own.item()})
    return seconds, kept


def bench_svd(args: argparse.Namespace) -> dict:
    """The basis alone, on random and on decaying gradients."""
    layers, found = shapes(make(args.size, "meta")), {"layers": 0, "rank": args.rank, "gamma": GAMMA}
    found["layers"] = len(layers)
    for kind in ("random", "decaying"):
        runs = [svd_round(layers, kind, args.rank, seed, args.device) for seed in range(args.rounds)]
        rounds, kept = [seconds for seconds, _ in runs], [row for _, rows in runs for row in rows]
        worst = min(kept, key=lambda row: row["of_exact"])
        found[kind] = {
            "seconds": table(rounds),
            "semu_over": ratios(rounds, "semu"),
            "energy_of_exact": {"worst": worst, "mean": statistics.fmean(row["of_exact"] for row in kept)},
            "mean_rank": statistics.fmean(row["rank"] for row in kept),
        }
        print(kind, found[kind], flush=True)
    found["memory"] = basis_memory(args)
    return found


def basis_memory(args: argparse.Namespace) -> dict:
    """Highest memory beyond weights and gradients while all bases are found, projection included."""
    model = make(args.size, args.device)
    generator, layers = torch.Generator().manual_seed(0), find_layers(model, SemuConfig())
    G = {
        name: gradient(layer.weight.shape[0], layer.weight[0].numel(), "random", generator, args.device)
        for name, layer in layers.items()
    }
    total = 4 * sum(g.numel() for g in G.values())
    with Extra() as extra:
        all_bases(G, layers, SemuConfig(gamma=GAMMA, max_rank=args.rank), {})
    return {"gradient_bytes": total, "extra_bytes": extra.bytes, "extra_share": extra.bytes / total}


# ---------------------------------------------------------------------------------------- training step


def trainer_of(model: nn.Module, call: Callable, trained: list[nn.Parameter]) -> Callable[[], None]:
    """One step: forward, backward, Adam; the teacher's answers are cached."""
    optimizer = torch.optim.Adam(trained, lr=1e-6)
    with torch.no_grad():
        target = call(model) + 0.1

    def step() -> None:
        (call(model) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def bench_step(args: argparse.Namespace) -> dict:
    """Training steps of all variants on one model, which is put back in between."""
    model = make(args.size, args.device, sample_size=args.latents)
    call = inputs(args.size, model, args.batch, args.device)
    rounds, memory, trained = [], {}, {}
    for _ in range(args.rounds):
        with torch.no_grad():
            call(model)
            row = {"forward": timed(lambda: call(model))}
        for name, variant in VARIANTS.items():
            with Extra() as extra:
                parameters = variant(model, args.rank)
                step = trainer_of(model, call, parameters)
                step()  # Adam's state and the allocator's first touch are not the step's
                row[name] = statistics.median(timed(step) for _ in range(args.steps))
            memory[name], trained[name] = extra.bytes, sum(p.numel() for p in parameters)
            del step, parameters
            restore(model)
        rounds.append(row)
        print(row, flush=True)
    live = [{"semu": r["semu"], "full with live teacher": r["full"] + r["forward"]} for r in rounds]
    return {
        "latents": args.latents,
        "batch": args.batch,
        "rank": args.rank,
        "seconds": table(rounds),
        "semu_over": {**ratios(rounds, "semu"), **ratios(live, "semu")},
        "extra_bytes": memory,
        "trained": trained,
    }


@contextmanager
def dressed(model: nn.Module, name: str, rank: int) -> Iterator[None]:
    """The model as a variant of itself, "semu merged" with its adapter merged; put back afterwards."""
    variant, _, state = name.partition(" ")
    if variant in VARIANTS:
        VARIANTS[variant](model, rank)
    if state == "merged":
        merge(model)
    yield
    if state == "merged":
        unmerge(model)
    restore(model)


def bench_inference(args: argparse.Namespace) -> dict:
    """Forward passes of the base, with SEMU and with LoRA, merged and not; the base twice, to see the noise."""
    model = make(args.size, args.device, sample_size=args.latents)
    call = functools.partial(inputs(args.size, model, args.batch, args.device), model)

    @torch.no_grad()
    def seconds(name: str) -> float:
        with dressed(model, name, args.rank):
            call()  # the first call pays for memory that the later ones find
            return statistics.median(timed(call) for _ in range(args.steps))

    rounds: list[dict[str, float]] = []
    seconds("base")
    for _ in range(args.rounds):
        there, back = ({name: seconds(name) for name in names} for names in (PASSES, PASSES[::-1]))
        rounds.append({name: (there[name] + back[name]) / 2 for name in PASSES})  # a steady drift falls out
        print(rounds[-1], flush=True)
    over = {name: ratios(rounds, name) for name in PASSES[1:] if name != "lora"}
    return {"latents": args.latents, "batch": args.batch, "rank": args.rank, "seconds": table(rounds), "over": over}


def bench_bytes(args: argparse.Namespace) -> dict:
    """What the files hold: fp32 numbers of the adapter, of a LoRA of its ranks and of the model."""
    model = make(args.size)
    VARIANTS["semu"](model, args.rank)
    layers = semu_layers(model).values()
    parts = [(layer.semu_U["default"], layer.semu_V["default"], layer.semu_R["default"]) for layer in layers]
    whole = sum(p.numel() for name, p in model.named_parameters() if "semu_" not in name)
    adapter = 4 * sum(p.numel() for row in parts for p in row)
    lora = 4 * sum(U.numel() + V.numel() for U, V, _ in parts)
    found = {"rank": args.rank, "model": 4 * whole, "adapter": adapter, "lora": lora}
    return {**found, "adapter_over_model": adapter / found["model"], "trained_bytes": adapter - lora}


# --------------------------------------------------------------------------------------------------- CLI


def bench_cli(args: argparse.Namespace) -> dict:
    """One `semu erase` as a user runs it, in a process of its own, on a pipeline folder with random weights."""
    options = ["--concept", "cat", "--steps", "3", "--batch-size", "2", "--latents", "4", "--keep-latents", "4"]
    options += ["--sampler-steps", "2", "--no-evaluate", "--quiet", "--device", args.device, *args.cli]
    with tempfile.TemporaryDirectory() as folder:
        model = write_pipeline(args.size, Path(folder) / "model", args.latents)
        gc.collect()
        output = Path(folder) / "adapter"
        program = "from semu_diffusion.cli import main; main()"
        command = [sys.executable, "-c", program, "erase", "--model", str(model), "--output", str(output)]
        start = time.perf_counter()
        run = subprocess.run([*command, *options], capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if run.returncode:
            raise SystemExit(f"semu erase failed: {run.stderr.strip()}")
        facts = json.loads((output / "results.json").read_text())["training"]
        sizes = {file.name: file.stat().st_size for file in output.iterdir() if file.suffix == ".safetensors"}
    shown = ("seconds", "layers", "trained", "trained_percent", "peak_memory_mb", "peak_gpu_mb")
    return {
        "options": options,
        "latents": args.latents,
        "process_seconds": seconds,
        "files": sizes,
        **{k: facts[k] for k in shown},
    }


SECTIONS = {"svd": bench_svd, "step": bench_step, "inference": bench_inference, "bytes": bench_bytes, "cli": bench_cli}


def parse_args() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = make_parser(__doc__)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="only this section (repeatable)")
    parser.add_argument("--size", choices=("sd15", "tiny"), default="sd15", help="the model")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all methods")
    parser.add_argument("--steps", type=int, default=3, help="timed calls of a method within a round")
    parser.add_argument("--rank", type=int, default=32, help="most directions per layer")
    parser.add_argument("--batch", type=int, default=4 if gpu else 1, help="latents in a step")
    parser.add_argument("--latents", type=int, default=64 if gpu else 32, help="height and width of the latents")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--cli", nargs=argparse.REMAINDER, default=[], help="further options of semu erase; last")
    parser.add_argument("--output", type=Path, default=Path("eval/results/scale.json"))
    return parsed(parser)


def main() -> None:
    args = parse_args()
    torch.manual_seed(0)
    found = read_json(args.output)
    head = {"command": command(), "size": args.size, "versions": versions()}
    head["machine"] = machine(workers=1, threads=torch.get_num_threads())
    if torch.cuda.is_available():
        head["machine"]["gpu"] = torch.cuda.get_device_name()
    head["config"] = CONFIGS[args.size][1]
    for name in args.only or SECTIONS:
        found[name] = {**head, **SECTIONS[name](args)}
        write_json(args.output, found)
        print(f"{name}: {args.output}", flush=True)


if __name__ == "__main__":
    main()
