"""Evaluation suites: an adapter's pipeline in, results.json, pictures and tables out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from .adapter import SemuConfig
from .adapter.config import erased_concepts
from .adapter.weights import write_atomic
from .diffusion.concepts import name_of
from .diffusion.generate import draw
from .diffusion.pipeline import switch_adapters
from .evaluation.charts import before_after, concept_chart, loss_chart
from .evaluation.intervals import INTERVALS
from .evaluation.judges import weights_hash
from .evaluation.pictograms import evaluate, showcase
from .evaluation.pictures import as_saved, read_pictures, write_gallery
from .evaluation.prompts import Shot, digest
from .pictograms import ASSETS, load_oracle
from .reporter import Silent
from .studio import draw_shots, source_of
from .versions import versions

SUITES = ("pictograms",)
ROWS = [
    ("UA", "% of forgotten pictures in which the concept is no longer recognised"),
    ("IRA", "% of kept concepts of the same kind recognised"),
    ("CRA", "% of the other kind recognised"),
    ("neighbours", "% of the closest kept concepts recognised"),
    ("context", "% of the rest of forgotten prompts still followed"),
    ("FID", "of kept pictures to the base model's, oracle features"),
    ("drift", "mean absolute pixel difference of kept pictures"),
]
SAMPLER_STEPS, GUIDANCE, BATCH = 10, 3.0, 48


@contextlib.contextmanager
def switched_off(pipe) -> Iterator[None]:
    """The base model, for the time of the block."""
    switch_adapters(pipe, False)
    try:
        yield
    finally:
        switch_adapters(pipe, True)


def run_pictograms(
    pipe,
    concepts: list[str],
    seeds_forget: int = 10,
    seeds_keep: int = 1,
    reporter: Silent | None = None,
    cache=None,
    folder: Path | None = None,
    adapter: dict | None = None,
) -> tuple[dict, dict]:
    """The pictograms suite on a pipeline that carries an adapter: report and pictures (`evaluation.evaluate`).

    With a folder, pictures go to its `base/` and `erased/`, drawn by all processes and taken up where they stopped;
    `adapter` (`evaluations.adapter_facts`) then says whose they are. Either way they are judged as 8-bit files.
    """
    reporter = reporter or Silent()
    reporter.stage("evaluation")
    made_by = source_of(pipe)

    def erased(prompts: list[str], seeds: list[int], side: str = "erased", adapter: dict | None = adapter):
        if folder is None:
            return as_saved(draw(pipe, prompts, seeds, SAMPLER_STEPS, GUIDANCE, BATCH, reporter.advance))
        shots = [Shot(*shot) for shot in zip(prompts, seeds)]
        how = (SAMPLER_STEPS, GUIDANCE, BATCH, {**made_by, "adapter": adapter})
        return read_pictures(draw_shots(pipe, shots, folder / side, *how, reporter))

    def base(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        with switched_off(pipe):
            return erased(prompts, seeds, "base", None)

    names, oracle = [name_of(c) for c in concepts], load_oracle(ASSETS / "oracle")
    report, pictures = evaluate(base, erased, names, oracle, seeds_forget, seeds_keep, cache)
    shots = [Shot(c.prompt, c.seed, f"{c.object}, {c.style}", part) for part, p in pictures.items() for c in p.cells]
    report["protocol"] = {
        "suite": "pictograms",
        **report["protocol"],
        **made_by,
        "steps": SAMPLER_STEPS,
        "guidance": GUIDANCE,
        "batch_size": BATCH,
        "size": list(pictures["keep"].base.shape[2:]),
        "prompts_hash": digest(shots),
        "judges": [{"name": "pictograms oracle", "model": weights_hash(oracle)}],
        "intervals": INTERVALS,
        "versions": versions(),
    }
    return report, pictures


def knows(suite: str, pipe_path: str, concepts: list[str]) -> bool:
    """Whether a suite can judge these concepts on this model."""
    from .diffusion.pipeline import model_path
    from .evaluation.pictograms import split

    if suite != "pictograms" or Path(model_path(pipe_path)).resolve() != ASSETS.resolve():
        return False
    try:
        split([name_of(c) for c in concepts])
    except ValueError:
        return False
    return True


def write_report(folder: Path, report: dict, pictures: dict, concepts: list[str]) -> None:
    """The charts, the gallery with its records.json, and at the end evaluation.json, which says that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name_of(c) for c in concepts]
    concept_chart(report["base"], report["erased"], names, folder / "concepts.png")
    shown = showcase(pictures, names)
    before_after(**shown, path=folder / "before_after.png")
    write_gallery(**shown, folder=folder)
    write_atomic(folder / "evaluation.json", json.dumps(report, indent=1))


def plain_pictures(pipe, prompts: list[str], keep: list[str], folder: Path, seed: int = 0) -> None:
    """before_after.png for a model without a suite: forgotten prompts, then kept ones."""
    prompts, keep = prompts[:4], keep[:4]
    seeds = [seed + k for k in range(len(prompts) + len(keep))]
    erased = draw(pipe, prompts + keep, seeds, batch_size=2)
    with switched_off(pipe):
        base = draw(pipe, prompts + keep, seeds, batch_size=2)
    groups = ["erased"] * len(prompts) + ["kept"] * len(keep)
    before_after(base, erased, prompts + keep, folder / "before_after.png", groups=groups)


def concepts_of(config: SemuConfig) -> list[str]:
    """The concepts that an adapter was trained to erase, also before. ValueError where it does not say."""
    concepts = erased_concepts(config.about)
    if not concepts:
        raise ValueError("the adapter does not say what it erases; name it with --concept")
    return concepts


def finish(erasure, base_model: str, reporter: Silent | None = None, seeds_forget: int = 4) -> dict | None:
    """After `erase`: loss.png, the suite (or plain pictures), results.json completed, README.md card."""
    from .card import write_card
    from .diffusion.concepts import vocabulary_of
    from .diffusion.families import family_of
    from .diffusion.pipeline import model_path

    folder, config = erasure.folder, erasure.config
    loss_chart(erasure.progress.history, folder / "loss.png")
    report, gone = None, erased_concepts({"before": erasure.facts["before"], "concept": config.concept})
    if knows("pictograms", base_model, gone):
        report, pictures = run_pictograms(erasure.pipe, gone, seeds_forget, 1, reporter)
        write_report(folder, report, pictures, gone)
    else:
        family, words = family_of(erasure.pipe), vocabulary_of(model_path(base_model))
        prompts = [p.prompt for p in family.pairs(config.concept, config.anchor, words, config.seed)]
        keep = config.keep or family.keep(config.concept, words, 4, 0)
        plain_pictures(erasure.pipe, list(dict.fromkeys(prompts)), keep, folder, config.seed)
    results = json.loads((folder / "results.json").read_text())
    results["evaluation"] = report
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
    write_card(folder, results)
    return report
