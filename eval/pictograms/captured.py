"""How much of the later forgetting gradients the first bases still capture, while R is trained.

    python -m eval.pictograms.captured                       # into eval/results/captured.json
    python -m eval.pictograms.captured --concept beer --set geometry=euclidean

R can only follow the part of a gradient inside span(U) x span(V). If that share falls to little, the first gradient's
basis caps forgetting.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from semu_diffusion.adapter.gradients import gradients
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion import EraseConfig, load_pipeline
from semu_diffusion.diffusion.concepts import vocabulary_of
from semu_diffusion.diffusion.data import make_states
from semu_diffusion.diffusion.erasure import adapt, make_bases
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.pipeline import model_path
from semu_diffusion.diffusion.plan import make_plan
from semu_diffusion.diffusion.trainer import Trainer
from semu_diffusion.versions import versions

from ..records import add_set, command, machine, make_parser, resolved, write_json


def captured_energy(trainer: Trainer) -> float:
    """Energy of the present gradient inside the bases over all of it, summed over the layers."""
    model, inside, total = trainer.family.model, 0.0, 0.0
    G = gradients(model, model.peft_config["default"], trainer.forgetting_gradient(model))
    for name, layer in semu_layers(model).items():
        QU, QV = (torch.linalg.qr(getattr(layer, f"semu_{part}")["default"]).Q for part in "UV")
        inside += (QU.T @ G[name] @ QV).square().sum().item()
        total += G[name].square().sum().item()
    return inside / total


def run(concept: str, options: dict, every: int) -> list[dict]:
    """Trains as `semu erase` does and measures every so many steps."""
    config, folder = EraseConfig(concept=concept, stop_at=-1.0, **options), Path("runs/captured")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    family, accelerator = family_of(load_pipeline("pictograms")), Accelerator()
    vocabulary = vocabulary_of(model_path("pictograms"))
    family.model.requires_grad_(False)
    plan, config = make_plan(family, config, vocabulary, [], Callback())
    states = make_states(family, config, plan.pairs, plan.keep, None, accelerator, Callback())
    adapt(family, config, make_bases(family, config, states, accelerator, Callback()), "pictograms", plan)
    trainer = Trainer(family, config, states, accelerator, folder)
    rows = [{"step": 0, "captured": captured_energy(trainer), "left": 1.0}]

    def report(row: dict) -> None:
        if row["step"] % every == 0:
            rows.append({"step": row["step"], "captured": captured_energy(trainer), "left": row.get("left")})
            print(concept, rows[-1], flush=True)

    trainer.train(report)
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--concept", action="append", help="default: cigarette, cat, sepia style")
    add_set(parser)
    parser.add_argument("--every", type=int, default=20, help="steps between measurements")
    parser.add_argument("--output", type=Path, default=Path("eval/results/captured.json"))
    args = parser.parse_args()
    options, concepts = dict(args.set), args.concept or ["cigarette", "cat", "sepia style"]
    found = {
        "command": command(),
        "options": resolved(options),
        "versions": versions(),
        "machine": machine(workers=1, threads=torch.get_num_threads()),
        "runs": {concept: run(concept, options, args.every) for concept in concepts},
    }
    write_json(args.output, found)


if __name__ == "__main__":
    main()
