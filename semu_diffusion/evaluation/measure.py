"""Measuring the adapter that a pipeline carries: a suite's figures and pictures, written into one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..adapter.claims import check_space
from ..callbacks import Callback
from ..diffusion.concepts import vocabulary_of
from ..diffusion.families import family_of
from ..diffusion.pipeline import base_name, model_path
from ..hub.contents import read_contents
from ..pictograms.words import OBJECTS
from .drawing import picture_bytes, team
from .results import adapter_facts, write_evaluation
from .suites import SUITES
from .suites.pictograms import run_pictograms, write_report
from .suites.run import EvalConfig, run_suite, shots_of


@dataclass(frozen=True)
class Measured:
    """Which adapter is measured, at which strength, on which model: its name, its local place."""

    name: str
    place: Path
    model: str
    scale: float = 1.0

    @property
    def facts(self) -> dict:
        """Its hash and strength, which its pictures depend on."""
        return adapter_facts(self.place, self.scale)

    def recorded(self) -> dict:
        """What results.json says about it: its name, hash and strength, and the ranks for the report."""
        return {"name": self.name, **self.facts, "ranks": read_contents(self.place).ranks}


def suite_for(pipe) -> str:
    """The suite of a model that has one of its own: "pictograms" for those of its words, "classes" without text.

    Raises:
        ValueError: any other model; what judges it depends on what is erased.
    """
    if not family_of(pipe).reads_text:
        return "classes"
    vocabulary = vocabulary_of(model_path(base_name(pipe)))
    if not vocabulary.common and set(OBJECTS) <= set(vocabulary.subjects):
        return "pictograms"
    names = [name for name in ("pictograms", *SUITES) if name != "classes"]
    raise ValueError(f"this model has no suite of its own; say which: --suite {', '.join(names[:-1])} or {names[-1]}")


def measure_pictograms(
    pipe, adapter: Measured, concepts: list[str], seeds: int, folder: Path, callback: Callback
) -> dict:
    """The embedded model's suite on a pipeline that carries the adapter; the first process writes and all return it.

    Raises:
        ValueError: a model that reads no text.
    """
    if not family_of(pipe).reads_text:
        raise ValueError("the suite pictograms has sentences, and this model draws classes: its suite is classes")
    report, pictures = run_pictograms(pipe, concepts, seeds, 1, callback, folder=folder, adapter=adapter.facts)
    if team().is_main_process:
        write_report(folder, report, pictures, concepts)
        write_evaluation(folder, report, None, adapter.model, adapter.recorded())
    return report


def measure_prompts(pipe, adapter: Measured, config: EvalConfig, folder: Path, callback: Callback) -> dict:
    """A suite over prompts, likewise.

    Raises:
        ValueError: as `shots_of`; a disk that is too full for the pictures.
    """
    shots = shots_of(config, pipe)  # says what is wrong with the prompts before anything is drawn
    check_space(folder, 2 * len(shots) * picture_bytes(pipe), "all pictures")
    report, records = run_suite(pipe, config, folder, adapter.facts, callback)
    if team().is_main_process:
        write_evaluation(folder, report, records, adapter.model, adapter.recorded())
    return report
