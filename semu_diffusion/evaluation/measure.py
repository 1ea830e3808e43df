"""Measuring the adapter that a pipeline carries: a suite's figures and pictures, written into one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..adapter.claims import check_space
from ..callbacks import Callback
from ..hub.contents import read_contents
from .drawing import picture_bytes, team
from .results import adapter_facts, write_evaluation
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


def measure_pictograms(
    pipe, adapter: Measured, concepts: list[str], seeds: int, folder: Path, callback: Callback
) -> dict:
    """The embedded model's suite on a pipeline that carries the adapter; the first process writes and all return it."""
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
