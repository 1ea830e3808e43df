"""Evaluation suites: an adapter's pipeline in, results.json, pictures and tables out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from .adapter import SemuConfig
from .adapter.switch import switch
from .adapter.weights import write_atomic
from .diffusion.concepts import name_of
from .diffusion.generate import draw
from .diffusion.pipeline import denoiser
from .diffusion.reporter import Silent
from .diffusion.results import versions
from .evaluation.charts import before_after, concept_chart, loss_chart
from .evaluation.pictograms import evaluate, showcase
from .pictograms import ASSETS, load_oracle

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
SAMPLER_STEPS, GUIDANCE = 15, 3.0


@contextlib.contextmanager
def switched_off(model) -> Iterator[None]:
    """The base model, for the time of the block."""
    switch(model, False)
    try:
        yield
    finally:
        switch(model, True)


def run_pictograms(
    pipe, concepts: list[str], seeds_forget: int = 10, seeds_keep: int = 1, reporter: Silent | None = None, cache=None
) -> tuple[dict, dict]:
    """The pictograms suite on a pipeline that carries an adapter: report and pictures (`evaluation.evaluate`)."""
    reporter = reporter or Silent()
    reporter.stage("evaluation")
    own = partial(draw, pipe, steps=SAMPLER_STEPS, guidance=GUIDANCE, progress=reporter.advance)

    def base(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        with switched_off(denoiser(pipe)):
            return own(prompts, seeds)

    names = [name_of(c) for c in concepts]
    report, pictures = evaluate(base, own, names, load_oracle(ASSETS / "oracle"), seeds_forget, seeds_keep, cache)
    sampler = {"sampler": type(pipe.scheduler).__name__, "steps": SAMPLER_STEPS, "guidance": GUIDANCE}
    report["protocol"] = {"suite": "pictograms", **report["protocol"], **sampler, "versions": versions()}
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
    """evaluation.json and the charts; merged into results.json where the folder has one."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name_of(c) for c in concepts]
    write_atomic(folder / "evaluation.json", json.dumps(report, indent=1))
    concept_chart(report["base"], report["erased"], names, folder / "concepts.png")
    before_after(**showcase(pictures, names), path=folder / "before_after.png")


def plain_pictures(pipe, prompts: list[str], keep: list[str], folder: Path, seed: int = 0) -> None:
    """before_after.png for a model without a suite: forgotten prompts, then kept ones."""
    prompts, keep = prompts[:4], keep[:4]
    seeds = [seed + k for k in range(len(prompts) + len(keep))]
    erased = draw(pipe, prompts + keep, seeds, batch_size=2)
    with switched_off(denoiser(pipe)):
        base = draw(pipe, prompts + keep, seeds, batch_size=2)
    groups = ["erased"] * len(prompts) + ["kept"] * len(keep)
    before_after(base, erased, prompts + keep, folder / "before_after.png", groups=groups)


def concepts_of(config: SemuConfig) -> list[str]:
    """The concepts that an adapter was trained to erase. ValueError where it does not say."""
    concepts = config.about.get("concept") or []
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
    report = None
    if knows("pictograms", base_model, config.concept):
        report, pictures = run_pictograms(erasure.pipe, config.concept, seeds_forget, 1, reporter)
        write_report(folder, report, pictures, config.concept)
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
