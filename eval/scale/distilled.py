"""Erases from a distilled stand-in, the embedded model in 4 steps without guidance, as one erases from Turbo models.

    python scripts/build_pictograms_turbo.py       # half an hour of one CPU core, once
    python -m eval.scale.distilled                 # into eval/results/distilled.json

Each concept is erased by `semu erase --model FOLDER --concept CONCEPT --output DIR` with no other option, and judged by
the pictograms suite, which draws a distilled model with its own sampler. Nothing but the scheduler of the folder tells
that it is distilled: its name does not. Concepts that the file already holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from semu_diffusion.pictograms.words import OBJECTS, STYLES, caption

from ..markdown import table
from ..pictograms.each import CONCEPTS
from ..records import command, machine, make_parser, resumed, write_json

CHOSEN = ("cigarette", "dog", "sepia style")
SCORES = ("UA", "IRA", "CRA", "natural")
FACTS = ("seconds", "steps", "left", "layers", "trained_percent")


def erased(model: Path, concept: str, folder: Path) -> list[str]:
    """Runs the shell's command in a process of its own; its words after `semu`."""
    words = ["erase", "--model", str(model), "--concept", concept, "--output", str(folder)]
    program = "from semu_diffusion.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", program, *words, "--quiet"], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"semu erase failed: {run.stderr.strip()}")
    return words


def scored(model: Path, concept: str, folder: Path, seeds: int) -> dict:
    """What the suite says of an adapter, and how the erasure and the suite drew."""
    from semu_diffusion import load_pipeline
    from semu_diffusion.diffusion.pipeline import load_adapter
    from semu_diffusion.evaluation.suites.pictograms import run_pictograms, write_report

    pipe = load_pipeline(str(model), "cpu")
    load_adapter(pipe, folder)
    report, pictures = run_pictograms(pipe, [concept], seeds_forget=seeds)
    write_report(folder / "suite", report, pictures, [concept])
    results = json.loads((folder / "results.json").read_text())
    return {
        "concept": concept,
        "erased_with": {k: results["options"][k] for k in ("sampler_steps", "guidance")},
        "drawn_with": {k: report["protocol"][k] for k in ("steps", "guidance")},
        "training": {k: results["training"][k] for k in FACTS},
        "base": {k: report["base"].get(k) for k in SCORES},
        "erased": {k: report["erased"].get(k) for k in SCORES},
    }


def recognised(model: str, scheduler=None) -> dict[str, float]:
    """Shares, in percent, of a picture per object and style that the oracle names right, in the model's own sampler
    or in that of another scheduler."""
    import torch

    from semu_diffusion import draw, load_pipeline
    from semu_diffusion.diffusion.families import drawing_defaults
    from semu_diffusion.evaluation.proper import judge
    from semu_diffusion.pictograms.oracle import load_oracle

    pipe = load_pipeline(model, "cpu")
    if scheduler is not None:
        pipe.scheduler = scheduler
        pipe.register_to_config(_name_or_path="")  # or it would be drawn as its card says
    own, cells = drawing_defaults(pipe), [(o, s) for o in OBJECTS for s in STYLES]
    images = draw(pipe, [caption(*cell) for cell in cells], [90_000 + k for k in range(len(cells))])
    found, words = judge(images, load_oracle()), {"object": OBJECTS, "style": STYLES}
    true = {kind: torch.tensor([words[kind].index(cell[k]) for cell in cells]) for k, kind in enumerate(words)}
    right = {kind: 100 * (found[kind].argmax(1) == true[kind]).float().mean().item() for kind in words}
    return {"steps": own.steps, "guidance": own.guidance, **right}


def quality(model: Path) -> dict:
    """The distilled model and its teacher in their own samplers, and the teacher in the distilled one's."""
    from semu_diffusion import load_pipeline

    few = load_pipeline(str(model), "cpu").scheduler
    return {"distilled": recognised(str(model)), "teacher": recognised("pictograms"),
            "teacher in the distilled model's sampler": recognised("pictograms", few)}  # fmt: skip


def shown(found: dict) -> str:
    """The results as docs/checkpoints.md has them."""
    rows = []
    for row in found["rows"]:
        scores = [f"{row['erased'][k]:.1f} ({row['base'][k]:.1f})" for k in SCORES]
        rows.append([row["concept"], *scores, f"{row['training']['steps']}"])
    return table(["erased", *SCORES, "training steps"], rows)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", type=Path, default=Path("build/pictograms_turbo/model"), help="the distilled folder")
    parser.add_argument("--concept", action="append", choices=CONCEPTS, metavar="C", help=f"default: {CHOSEN}")
    parser.add_argument("--seeds", type=int, default=10, help="pictures per forgotten prompt")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the evaluation")
    parser.add_argument("--adapters", type=Path, help="a folder to leave the adapters in, with their pictures")
    parser.add_argument("--output", type=Path, default=Path("eval/results/distilled.json"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import torch

    from semu_diffusion.versions import versions

    torch.set_num_threads(args.threads)
    weights = json.loads((args.model / "check.json").read_text())
    head = {"command": command(), "seeds_forget": args.seeds, "built": weights, "versions": versions()}
    head["machine"] = machine(workers=1, threads=args.threads)
    found = resumed(args.output, head, ("seeds_forget", "built"))
    found = {**head, "quality": found.get("quality") or quality(args.model), "rows": found.get("rows", [])}
    with tempfile.TemporaryDirectory() as scratch:
        for concept in args.concept or CHOSEN:
            if concept not in {row["concept"] for row in found["rows"]}:
                folder = (args.adapters or Path(scratch)) / concept.replace(" ", "-")
                words = erased(args.model, concept, folder)
                found["rows"].append({"erase": words[:-2], **scored(args.model, concept, folder, args.seeds)})
            write_json(args.output, found)
            print(json.dumps(found["rows"][-1]), flush=True)


if __name__ == "__main__":
    main()
