"""The planned memory of a run: at real sizes from meta tensors, and held against what is measured on this machine.

python -m eval.scale.memory                      # the plans for the cards that people have
python -m eval.scale.memory --check sd15 --latents 32   # estimate against measured peaks; writes nothing
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from semu_diffusion.adapter import SemuConfig, gradients
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.footprint import Footprint, measure, peak_bytes, probe
from semu_diffusion.diffusion.memory import Batches, plan_memory, stages

from .models import inputs, make, write_pipeline
from .scaling import fused

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


# ------------------------------------------------------------------------------------------- measured


def checked(name: str, latents: int) -> dict:
    """Estimated and measured peaks of the stages of an erasure with random weights, by the tensors that are made."""
    from accelerate import Accelerator

    from semu_diffusion import load_pipeline
    from semu_diffusion.adapter.subspace import find_bases, install_bases
    from semu_diffusion.adapter.weights import inject
    from semu_diffusion.callbacks import Callback
    from semu_diffusion.diffusion.concepts import vocabulary_of
    from semu_diffusion.diffusion.data import make_states
    from semu_diffusion.diffusion.erasure import adapter_config
    from semu_diffusion.diffusion.families import family_of
    from semu_diffusion.diffusion.trainer import Trainer

    config = EraseConfig(
        "cigarette", latents=2, keep_latents=2, sampler_steps=2, batch_size=1, max_rank=16, strength=0.75
    )
    plan, cpu = Batches(drawn=1, moments=1, gradient=1, checked=1), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        family = family_of(load_pipeline(str(write_pipeline(name, Path(folder), latents)), "cpu"))
    semu, model = adapter_config(config), family.model
    need = stages(config, plan, 0, measure(model, semu, probe(family, "a cat"), cpu))
    accelerator, words = Accelerator(cpu=True), vocabulary_of("")
    pairs, states, bases = family.pairs(config.concept, None, words, 0), [], {}
    taken = {
        "drawing": peak_bytes(
            lambda: states.append(make_states(family, config, pairs, ["a dog"], None, accelerator, Callback(), 1)), cpu
        )
    }
    trainer = Trainer(family, config, states[0], accelerator, Path("."), batches=plan)
    taken["gradient"] = peak_bytes(  # the bases are worked out in threads, whose tensors are not counted here
        lambda: bases.update(find_bases(model, semu, trainer.forgetting_gradient(model), trainer.kept_forward(model))),
        cpu,
    )
    semu.ranks = {name: basis.rank for name, basis in bases.items()}
    inject(model, semu)
    install_bases(model, bases)
    optimizer = accelerator.prepare(trainer.optimizer())
    taken["training"] = peak_bytes(lambda: trainer.step(model, optimizer, 0), cpu)
    need["gradient"] = max(need["moments"], need["gradient"])
    return {k: {"estimate": need[k], "measured": v, "ratio": round(need[k] / v, 3)} for k, v in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", help="a size of eval.scale.models to measure here")
    parser.add_argument("--latents", type=int, default=16, help="their side, for --check")
    args = parser.parse_args()
    rows = [{"model": args.check, **checked(args.check, args.latents)}] if args.check else plans()
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
