"""Pictograms: the embedded model's suite; the oracle judges the grid of objects and styles."""

from __future__ import annotations

from pathlib import Path

import torch

from ...callbacks import Callback
from ...diffusion.concepts import name_of
from ...diffusion.families import sampler_of
from ...diffusion.pipeline import EMBEDDED, is_embedded, set_scale, switched_off
from ...diffusion.plain import plain
from ...pictograms.oracle import load_oracle
from ...pictograms.words import ASSETS
from ...versions import versions
from ..charts import before_after, concept_chart
from ..drawing import draw_shots, draw_together, source_of
from ..grid import cells, draw_cells, evaluate, interval, percent, pool, showcase, split, tally
from ..intervals import INTERVALS
from ..judges import weights_hash
from ..pictures import as_saved, read_pictures, write_gallery
from ..prompts import Shot, digest
from ..proper import load_references

ROWS = [
    ("UA", "% of forgotten pictures in which the concept is no longer recognised"),
    ("IRA", "% of kept concepts of the same kind recognised"),
    ("CRA", "% of the other kind recognised"),
    ("neighbours", "% of the closest kept concepts recognised"),
    ("context", "% of the rest of forgotten prompts still followed"),
    ("natural", "% of forgotten pictures that are a proper picture of something"),
    ("instead", "what they show in place of the concept, counted"),
    ("FID", "of kept pictures to the base model's, oracle features"),
    ("drift", "mean absolute pixel difference of kept pictures"),
]
SAMPLER_STEPS, GUIDANCE, BATCH = 10, 3.0, 48
WEAKER = (0.5, 0.25)  # strengths at which an adapter is looked at besides its own
# What other suites draw and judge the embedded model with, unless they are told otherwise.
ITS_OWN = {"classifier": "pictograms", "steps": SAMPLER_STEPS, "guidance": GUIDANCE, "batch_size": BATCH}


def run_pictograms(
    pipe,
    concepts: list[str],
    seeds_forget: int = 10,
    seeds_keep: int = 1,
    callback: Callback | None = None,
    cache=None,
    folder: Path | None = None,
    adapter: dict | None = None,
) -> tuple[dict, dict]:
    """The pictograms suite on a pipeline that carries an adapter: report and pictures (`grid.evaluate`).

    A model that was distilled to few steps is drawn with its own steps and guidance, others with those of the suite.

    With a folder, pictures go to its `base/` and `erased/`, drawn by all processes and taken up where they stopped;
    `adapter` (`results.adapter_facts`) then says whose they are. Either way processes share the drawing out, and the
    pictures are judged as 8-bit files.
    """
    callback = callback or Callback()
    callback.stage("evaluation")
    made_by, own = source_of(pipe), sampler_of(pipe)
    steps, guidance = (own.steps, own.guidance) if own.few else (SAMPLER_STEPS, GUIDANCE)

    def erased(prompts: list[str], seeds: list[int], side: str = "erased", adapter: dict | None = adapter):
        if folder is None:
            return as_saved(draw_together(pipe, prompts, seeds, steps, guidance, BATCH, callback.advance))
        shots = [Shot(*shot) for shot in zip(prompts, seeds)]
        how = (steps, guidance, BATCH, {**made_by, "adapter": adapter})
        return read_pictures(draw_shots(pipe, shots, folder / side, *how, callback))

    def base(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        with switched_off(pipe):
            return erased(prompts, seeds, "base", None)

    names, oracle = [name_of(c) for c in concepts], load_oracle(ASSETS / "oracle")
    references = load_references() if made_by["model"] == EMBEDDED else None
    with plain(pipe) as off:
        report, pictures = evaluate(base, erased, names, oracle, seeds_forget, seeds_keep, cache, references)
    shots = [Shot(c.prompt, c.seed, f"{c.object}, {c.style}", part) for part, p in pictures.items() for c in p.cells]
    report["protocol"] = {
        "suite": "pictograms",
        **report["protocol"],
        **made_by,
        "steps": steps,
        "guidance": guidance,
        "batch_size": BATCH,
        "size": list(pictures["keep"].base.shape[2:]),
        "prompts_hash": digest(shots),
        "judges": [{"name": "pictograms oracle", "model": weights_hash(oracle)}],
        "intervals": INTERVALS,
        "taken_off": off,
        "versions": versions(),
    }
    return report, pictures


def weaker(
    pipe, concepts: list[str], strengths: tuple[float, ...] = WEAKER, seeds: int = 2, callback: Callback | None = None
) -> dict[str, dict]:
    """UA with the adapter at less than its full strength: strength -> {"UA", "interval", "pictures"}, in percent.

    An adapter that is shipped as a LoRA is scaled by whoever uses it. The pipeline is left at strength 1.
    """
    names, oracle, found = [name_of(c) for c in concepts], load_oracle(ASSETS / "oracle"), {}
    shown, advance = cells(names, seeds)[0], (callback or Callback()).advance

    def drawn(prompts: list[str], noise: list[int]) -> torch.Tensor:
        return as_saved(draw_together(pipe, prompts, noise, SAMPLER_STEPS, GUIDANCE, BATCH, advance))

    try:
        with plain(pipe):
            for strength in strengths:
                set_scale(pipe, strength)
                named, total = pool(tally(draw_cells(drawn, shown), shown, oracle), split(names))
                gone = total - named, total
                found[str(strength)] = {"UA": percent(*gone), "interval": interval(*gone), "pictures": total}
    finally:
        set_scale(pipe, 1.0)
    return found


def knows(suite: str, pipe_path: str, concepts: list[str]) -> bool:
    """Whether a suite can judge these concepts on this model."""
    if suite != "pictograms" or not is_embedded(pipe_path):
        return False
    try:
        split([name_of(c) for c in concepts])
    except ValueError:
        return False
    return True


def write_report(folder: Path, report: dict, pictures: dict, concepts: list[str]) -> None:
    """The charts, and the gallery with its records.json."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name_of(c) for c in concepts]
    concept_chart(report["base"], report["erased"], names, folder / "concepts.png")
    shown = showcase(pictures, names)
    before_after(**shown, path=folder / "before_after.png")
    write_gallery(**shown, folder=folder)
