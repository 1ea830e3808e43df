"""Erases concepts of the embedded model and draws them in words that training never saw, each wording by itself.

    python -m eval.pictograms.wordings                              # eight concepts, into eval/results/wordings.json
    python -m eval.pictograms.wordings --concept dog --pictures runs/wordings

What the eraser can be asked for is what the model draws when it is asked for the anchor: the base model draws that too,
in the same wordings and from the same noise ("anchor" in the results).
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from pathlib import Path

from ..records import add_set, command, machine, make_parser, read_json, resolved, resumed, write_json

CONCEPTS = ("cigarette", "knife", "dog", "apple", "airplane", "umbrella", "neon style", "blueprint style")
FIGURES = ("UA", "natural", "beside", "wordings")
WORDING = ("UA", "natural", "drawn", "pictures", "counts")


def erase_and_reword(concept: str, options: dict, seeds: int, folder: Path) -> dict:
    """One concept: a fresh pipeline, `erase`, the suite wordings, and the anchor as the base model draws it."""
    from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure
    from semu_diffusion.diffusion.pipeline import denoiser
    from semu_diffusion.evaluation.judges import weights_hash
    from semu_diffusion.evaluation.suites.pictograms import ITS_OWN
    from semu_diffusion.evaluation.suites.run import EvalConfig, run_suite

    pipe = load_pipeline("pictograms")
    erasure = run_erasure(pipe, EraseConfig(concept=concept, **options))
    config = EvalConfig("wordings", [concept], seeds=seeds, **ITS_OWN)
    report, records = run_suite(pipe, config, folder, {"sha256": weights_hash(denoiser(pipe)), "scale": 1.0})
    (anchors,) = erasure.facts["anchors"].values()
    per_wording = report["erased"]["per_wording"]
    counting = [r for r in records["erased"] if per_wording[r["group"]]["counts"]]
    training = {k: erasure.facts[k] for k in ("seconds", "steps", "left")}
    row = {"concept": concept, "anchors": anchors, "training": training}
    for side in ("base", "erased"):
        own = report[side]
        each = {group: {k: found[k] for k in WORDING} for group, found in own["per_wording"].items()}
        row[side] = {**{k: own[k] for k in FIGURES}, "instead": own["instead"], "per_wording": each}
    return {**row, "anchor": drawn_instead(pipe, counting, anchors[0]), "protocol": report["protocol"]}


def in_place(prompt: str, group: str, name: str, anchor: str) -> str | None:
    """The prompt of a wording with the anchor in place of the concept, in the same form; None in other languages."""
    from semu_diffusion.evaluation.wordings import plural, with_article

    wording, _, word = group.partition(": ")
    word = word if wording in ("synonym", "typo") else name
    found = (form for form in (with_article, plural, str) if re.search(rf"\b{re.escape(form(word))}\b", prompt))
    form = next(found, None)
    return form and re.sub(rf"\b{re.escape(form(word))}\b", form(anchor), prompt)


def drawn_instead(pipe, records: list[dict], anchor: str) -> dict:
    """What the base model draws where the erased one was asked for the concept, asked for the anchor: its "natural"."""
    from semu_diffusion.diffusion import draw
    from semu_diffusion.diffusion.pipeline import switched_off
    from semu_diffusion.evaluation.pictures import as_saved
    from semu_diffusion.evaluation.proper import KINDS, Proper, load_references, looks
    from semu_diffusion.evaluation.suites.pictograms import BATCH, GUIDANCE, SAMPLER_STEPS
    from semu_diffusion.pictograms.oracle import load_oracle

    asked = [(in_place(r["prompt"], r["group"], r["label"], anchor), r) for r in records]
    asked = [(prompt, r) for prompt, r in asked if prompt]
    prompts, seeds = [prompt for prompt, _ in asked], [r["seed"] for _, r in asked]
    with switched_off(pipe):
        images = as_saved(draw(pipe, prompts, seeds, SAMPLER_STEPS, GUIDANCE, BATCH))
    kind = "style" if records[0]["label"] in KINDS["style"] else "object"
    seen = looks(images, load_oracle())[kind]
    natural = Proper(load_references()[kind])(seen).float().mean().item()
    return {"asked": anchor, "pictures": len(prompts), "natural": 100 * natural,
            "natural_erased": 100 * statistics.fmean(r["natural"] for _, r in asked)}  # fmt: skip


def summary(rows: list[dict]) -> dict:
    """Means over the concepts, and the least UA."""
    means = {side: {k: statistics.fmean(r[side][k] for r in rows) for k in FIGURES} for side in ("base", "erased")}
    anchor = {k: statistics.fmean(r["anchor"][k] for r in rows) for k in ("natural", "natural_erased")}
    worst = min(rows, key=lambda r: r["erased"]["UA"])
    return {"concepts": len(rows), **means, "anchor": anchor, "worst_UA": [worst["concept"], worst["erased"]["UA"]]}


def line(row: dict) -> str:
    """A row for the terminal."""
    base, erased, anchor = (row[k] for k in ("base", "erased", "anchor"))
    return (f"{row['concept']:<16} UA {erased['UA']:.1f}  natural {erased['natural']:.1f} (base {base['natural']:.1f}; "
            f"asked for {anchor['asked']} {anchor['natural']:.1f})")  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--concept", action="append", metavar="C", help="only this one (repeatable)")
    add_set(parser)
    parser.add_argument("--seeds", type=int, default=1, help="pictures per prompt, of six prompts per wording")
    parser.add_argument("--pictures", type=Path, help="a folder to leave the pictures in, one per concept")
    parser.add_argument("--output", type=Path, default=Path("eval/results/wordings.json"))
    return parser.parse_args()


def main() -> None:
    import torch

    from semu_diffusion.versions import versions

    args = parse_args()
    torch.set_num_threads(1)
    options = dict(args.set)
    head = {"command": command(), "options": resolved(options), "seeds": args.seeds, "versions": versions()}
    head["machine"] = machine(workers=1, threads=1)
    rows = resumed(args.output, head, ("options", "seeds")).get("rows", [])
    for concept in args.concept or CONCEPTS:
        if concept in {row["concept"] for row in rows}:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = (args.pictures or Path(scratch)) / concept.replace(" ", "-")
            rows.append(erase_and_reword(concept, options, args.seeds, folder))
        write_json(args.output, {**head, "summary": summary(rows), "rows": rows})
        print(line(rows[-1]), flush=True)
    print(read_json(args.output)["summary"])


if __name__ == "__main__":
    main()
