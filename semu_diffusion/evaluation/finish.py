"""What follows an erasure: its suite or plain pictures, results.json completed, the model card."""

from __future__ import annotations

import json
import shutil

from ..adapter.claims import WORK
from ..adapter.config import erased_concepts
from ..adapter.weights import write_atomic
from ..callbacks import Callback
from ..diffusion.families import family_of
from ..diffusion.pipeline import switched_off
from ..diffusion.plain import plain
from ..hub.card import write_card
from .charts import before_after, loss_chart
from .drawing import draw_together, team
from .suites.pictograms import ROWS, knows, run_pictograms, weaker, write_report

SHOWN = 4  # pictures of either kind


def plain_pictures(pipe, prompts: list[str], keep: list[str], seed: int = 0) -> dict:
    """What before_after.png shows of a model without a suite: forgotten prompts, fewer several times, and kept ones."""
    prompts, keep = [prompts[k % len(prompts)] for k in range(SHOWN)], keep[:SHOWN]
    seeds = [seed + k for k in range(len(prompts) + len(keep))]
    with plain(pipe):
        erased = draw_together(pipe, prompts + keep, seeds, batch_size=2)
        with switched_off(pipe):
            base = draw_together(pipe, prompts + keep, seeds, batch_size=2)
    groups = ["erased"] * len(prompts) + ["kept"] * len(keep)
    return {"base_images": base, "erased_images": erased, "titles": prompts + keep, "groups": groups}


def finish(erasure, base_model: str, callback: Callback | None = None, seeds_forget: int = 4) -> dict | None:
    """After `erase`: loss.png, the suite (or plain pictures), results.json completed, README.md card.

    Of several processes all draw, so that none waits for another longer than for a picture, and the first one writes.
    The working files of the erasure go away last: until then `--resume` has all this made again.
    """
    folder, config, first = erasure.folder, erasure.config, team().is_main_process
    report, less, gone = None, {}, erased_concepts({"before": erasure.facts["before"], "concept": config.concept})
    if first and erasure.progress.history:  # a closed form has none
        loss_chart(erasure.progress.history, folder / "loss.png")
    if knows("pictograms", base_model, gone):
        report, pictures = run_pictograms(erasure.pipe, gone, seeds_forget, 1, callback)
        less = weaker(erasure.pipe, gone, callback=callback)
        if first:
            write_report(folder, report, pictures, gone)
    elif family_of(erasure.pipe, config.train).draws:
        prompts = list(dict.fromkeys(p.prompt for p in erasure.plan.pairs))
        shown = plain_pictures(erasure.pipe, prompts, erasure.plan.keep, config.seed)
        if first:
            before_after(**shown, path=folder / "before_after.png")
    if not first:
        return report
    results = json.loads((folder / "results.json").read_text())
    results |= {"evaluation": report, **({"weaker": less} if less else {})}
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
    write_card(folder, results, ROWS)
    if report:
        write_atomic(folder / "evaluation.json", json.dumps(report, indent=1))
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return report
