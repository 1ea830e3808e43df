"""What follows an erasure: its suite or plain pictures, results.json completed, the model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..adapter.claims import WORK
from ..adapter.config import erased_concepts
from ..adapter.weights import write_atomic
from ..callbacks import Callback
from ..diffusion.families import family_of
from ..diffusion.generate import draw
from ..diffusion.pipeline import switched_off
from ..diffusion.plain import plain
from ..hub.card import write_card
from .charts import before_after, loss_chart
from .suites.pictograms import ROWS, knows, run_pictograms, weaker, write_report


def plain_pictures(pipe, prompts: list[str], keep: list[str], folder: Path, seed: int = 0) -> None:
    """before_after.png for a model without a suite: forgotten prompts, then kept ones."""
    prompts, keep = prompts[:4], keep[:4]
    seeds = [seed + k for k in range(len(prompts) + len(keep))]
    with plain(pipe):
        erased = draw(pipe, prompts + keep, seeds, batch_size=2)
        with switched_off(pipe):
            base = draw(pipe, prompts + keep, seeds, batch_size=2)
    groups = ["erased"] * len(prompts) + ["kept"] * len(keep)
    before_after(base, erased, prompts + keep, folder / "before_after.png", groups=groups)


def finish(erasure, base_model: str, callback: Callback | None = None, seeds_forget: int = 4) -> dict | None:
    """After `erase`: loss.png, the suite (or plain pictures), results.json completed, README.md card.

    The working files of the erasure go away last: until then `--resume` has all this made again.
    """
    folder, config = erasure.folder, erasure.config
    loss_chart(erasure.progress.history, folder / "loss.png")
    report, less, gone = None, {}, erased_concepts({"before": erasure.facts["before"], "concept": config.concept})
    if knows("pictograms", base_model, gone):
        report, pictures = run_pictograms(erasure.pipe, gone, seeds_forget, 1, callback)
        write_report(folder, report, pictures, gone)
        less = weaker(erasure.pipe, gone, callback=callback)
    elif family_of(erasure.pipe, config.train).draws:
        prompts = list(dict.fromkeys(p.prompt for p in erasure.plan.pairs))
        plain_pictures(erasure.pipe, prompts, erasure.plan.keep, folder, config.seed)
    results = json.loads((folder / "results.json").read_text())
    results |= {"evaluation": report, **({"weaker": less} if less else {})}
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
    write_card(folder, results, ROWS)
    if report:
        write_atomic(folder / "evaluation.json", json.dumps(report, indent=1))
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return report
