"""The planned memory of a run: at real sizes from meta tensors, and held against what is measured on this machine.

python -m eval.scale.memory                          # the plans for the cards that people have
python -m eval.scale.memory --check tiny --check sd15   # estimate against measured, into eval/results/memory.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from semu_diffusion.adapter import SemuConfig, gradients
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.footprint import Footprint, measure
from semu_diffusion.diffusion.memory import pipeline_bytes, plan_memory, stages
from semu_diffusion.versions import versions

from ..records import command, machine, read_json, write_json
from .counting import fused
from .models import inputs, make, write_pipeline
from .peaks import peaks

META = torch.device("meta")
HOST = 64e9  # bytes of the host's memory that the plans may use
SPARE = 0.95
BITS = {"bf16": 16, "int8": 8.25, "4-bit": 4.5}  # of a Linear's weight, with its scales


@dataclass
class Case:
    """A model as it is stored, on a card of so many GB."""

    name: str
    stored: str
    card: int


CASES = (
    Case("sd15", "bf16", 8), Case("sdxl", "bf16", 24), Case("sd35-large", "bf16", 24), Case("flux", "4-bit", 24),
    Case("flux", "int8", 24), Case("flux", "bf16", 48),
)  # fmt: skip


def footprint(name: str, **changes) -> tuple[Footprint, float, float]:
    """What the records of a model take in bf16, and its bytes: all of it, and of that its Linear weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # of the inputs
    try:
        model = make(name, "meta", **changes).to(torch.bfloat16)
        predict = lambda n, start: inputs(name, model, n, "meta", start)(model)  # noqa: E731
        with (
            mock.patch.object(F, "scaled_dot_product_attention", fused),
            mock.patch.object(gradients, "is_differentiable", lambda layer: True),  # as on a device
            mock.patch.object(gradients, "finite", lambda name, grad: grad.flatten(1).float()),  # nothing to look at
        ):
            foot = measure(model, SemuConfig(), predict, META)
    finally:
        torch.set_default_dtype(before)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return foot, 2 * sum(p.numel() for p in model.parameters()), 2 * linear


def planned(case: Case, found: tuple[Footprint, float, float]) -> dict:
    """The plan of a run with the defaults, or why there is none."""
    foot, weights, linear = found
    fixed = weights - linear + linear * BITS[case.stored] / 16
    if case.stored != "bf16":  # inputs and output gradients in fp32, where the weight's gradient is formed from them
        copies = 4 * max(rows * (m + n) for rows, (m, n) in zip(foot.rows, foot.shapes))
        foot = Footprint(**{**vars(foot), "gradient": {
            on: type(line)(line.each + copies, line.once) for on, line in foot.gradient.items()
        }})  # fmt: skip
    try:
        config, plan = plan_memory(EraseConfig("x"), int(fixed), foot, SPARE * case.card * 1e9, HOST)
    except ValueError as error:
        return {**asdict(case), "weights": fixed, "fits": False, "words": str(error)}
    need = stages(config, plan, int(fixed), foot)
    worst = max(need, key=need.get)
    return {**asdict(case), "weights": fixed, "fits": True, "words": plan.words.partition(":")[0], "peak": need[worst],
            "at": worst, "stages": need}  # fmt: skip


def plans() -> list[dict]:
    """All cases; each model is measured once."""
    found = {name: footprint(name) for name in dict.fromkeys(case.name for case in CASES)}
    return [planned(case, found[case.name]) for case in CASES]


# -------------------------------------------------------------------------------------------- checked

# Sizes, with latents' side and options; records are few, so that each run ends in minutes, but enough for two batches
# of the gradient, and where it can be of the moments: in the first one some of the sums are still to come.
CHECKS = {
    "tiny": (16, {"latents": 8, "keep_latents": 32, "sampler_steps": 3, "batch_size": 4, "max_rank": 16,
                  "moment_records": 64, "gradient_records": 16}),
    "pictograms": (8, {"latents": 32, "keep_latents": 32, "sampler_steps": 3, "moment_records": 64,
                       "gradient_records": 32}),
    "half": (16, {"latents": 3, "keep_latents": 20, "sampler_steps": 2, "batch_size": 1, "moment_records": 40,
                  "gradient_records": 4}),
    "sd15": (16, {"latents": 3, "keep_latents": 20, "sampler_steps": 2, "batch_size": 1, "moment_records": 40,
                  "gradient_records": 4}),
}  # fmt: skip


def checked(name: str) -> dict:
    """Estimated and measured peaks of the stages of an erasure with a model that is written first, in bytes.

    The estimate is the planner's own, the measure the allocator's (`peaks`).
    """
    from semu_diffusion import load_pipeline
    from semu_diffusion.diffusion.erasure import run_erasure

    side, options = CHECKS[name]
    torch.set_num_threads(1)  # the allocator's account is that of one thread
    with tempfile.TemporaryDirectory() as folder:
        model = name if name == "pictograms" else str(write_pipeline(name, Path(folder), side))
        pipe = load_pipeline(model, "cpu")
    config, plans = EraseConfig("cigarette", steps=2, max_memory=1e3, **options), []
    with watched_plans(pipeline_bytes(pipe), plans):
        taken = peaks(lambda: run_erasure(pipe, config))
    need, size = plans[-1], sum(p.numel() for p in pipe.unet.parameters())
    rows = {k: {"estimate": need[k], "measured": v, "ratio": round(need[k] / v, 3)} for k, v in taken.items()}
    top = {"estimate": max(need[k] for k in taken), "measured": max(taken.values())}
    return {"model": name, "parameters": size, "latents": side, "options": options, "stages": rows,
            "peak": {**top, "ratio": round(top["estimate"] / top["measured"], 3)}}  # fmt: skip


@contextlib.contextmanager
def watched_plans(models: int, plans: list[dict[str, float]]) -> Iterator[None]:
    """Appends what the planner of an erasure says each stage needs beyond the models' bytes."""
    from semu_diffusion.diffusion import erasure

    own = erasure.plan_memory

    def watch(config, fixed, foot, room, host):
        chosen, batches = own(config, fixed, foot, room, host)
        plans.append(stages(chosen, batches, fixed - models, foot))
        return chosen, batches

    with mock.patch.object(erasure, "plan_memory", watch):
        yield


def write_checks(path: Path, names: Sequence[str]) -> None:
    """Each size in a process of its own, into the results file; the others' rows stay."""
    rows = {row["model"]: row for row in read_json(path).get("rows", [])}
    for name in names:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows[name] = {**pool.submit(checked, name).result(), "command": command(), "versions": versions()}
        print(json.dumps(rows[name]), flush=True)
        write_json(path, {"machine": machine(threads=1), "rows": [rows[k] for k in CHECKS if k in rows]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="append", choices=CHECKS, help="a size to measure here (repeatable)")
    parser.add_argument("--output", type=Path, default=Path("eval/results/memory.json"), help="for --check")
    args = parser.parse_args()
    if args.check:
        write_checks(args.output, args.check)
        return
    for row in plans():
        print(json.dumps(row))


if __name__ == "__main__":
    main()
