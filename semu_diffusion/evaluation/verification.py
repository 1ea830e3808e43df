"""Running a recorded evaluation again, and saying which of its figures agree."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from ..adapter.claims import read_json, taken_as_written
from ..callbacks import Callback
from ..hub.patience import explain, patiently
from ..hub.transfer import is_repo
from .grid import split
from .prompts import digest
from .results import adapter_facts
from .suites.run import EvalConfig, run_suite, shots_of

TOLERANCE = 1e-6  # of rounding, relative: other machines add up in another order
NO_FIGURES = ("intervals", "counts", "per_class", "per_concept", "per_wording", "instead")


class Verdict(NamedTuple):
    """One figure, as recorded and as measured again; agrees is None where it was recorded without an interval."""

    side: str
    figure: str
    recorded: float
    measured: float | None
    interval: list[float] | None
    agrees: bool | None


def read_results(source: str | Path) -> dict:
    """The results.json of a folder or of a Hub repository, or that file.

    Raises:
        ValueError: there is none, or it records no evaluation.
    """
    source = fetch(str(source)) if is_repo(source) else Path(source)
    file = source / "results.json" if source.is_dir() else source
    if not file.is_file():
        raise ValueError(f"no results at {file}; `semu erase` and `semu eval` write results.json")
    results = read_json(file)
    if not (isinstance(results, dict) and results.get("evaluation") and isinstance(results["evaluation"], dict)):
        raise ValueError(f"{file} records no evaluation; run `semu eval`, and give its results.json with --results")
    return results


def scale_of(results: dict) -> float:
    """The strength at which results were taken. ValueError where they do not say it as semu does."""
    with taken_as_written(Path("results.json")):
        return float((results.get("adapter") or {}).get("scale", 1.0))


def fetch(repo: str) -> Path:
    """The results.json of an adapter on the Hub (cached). ValueError where it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(patiently(lambda: hf_hub_download(repo, "results.json")))
    except Exception as error:  # as in `hub.pull`
        raise explain(error, repo) from None


def measure_again(pipe, recorded: dict, adapter: dict, folder: Path, callback: Callback | None = None) -> dict:
    """The report of the same evaluation, now. ValueError where the prompts have changed."""
    from .suites.pictograms import run_pictograms

    with taken_as_written(Path("results.json")):
        protocol = recorded["protocol"]
        if suite := protocol["suite"] == "pictograms":
            concepts = [name if kind == "object" else f"{name} style" for name, kind in protocol["concepts"].items()]
            seeds = int(protocol["seeds_forget"]), int(protocol["seeds_keep"])
            split(protocol["concepts"])
        else:
            config, wanted = (
                EvalConfig(**{f.name: protocol[f.name] for f in fields(EvalConfig)}),
                protocol["prompts_hash"],
            )
    if suite:
        return run_pictograms(pipe, concepts, *seeds, callback, folder=folder, adapter=adapter)[0]
    if digest(shots_of(config, pipe)) != wanted:
        raise ValueError("the prompts are not those that were recorded: prompts, seeds or labels have changed")
    return run_suite(pipe, config, folder, adapter, callback)[0]


def compare(recorded: dict, measured: dict) -> list[Verdict]:
    """A verdict on each figure of both models: does the new value lie in the interval that was recorded with it?"""
    verdicts = []
    check_rows(recorded)
    for side in ("base", "erased"):
        old, new = recorded[side], measured[side]
        for figure in (k for k, v in old.items() if k not in NO_FIGURES and v is not None):
            value, interval = new.get(figure), (old.get("intervals") or {}).get(figure)
            verdicts.append(Verdict(side, figure, old[figure], value, interval, agrees(old[figure], value, interval)))
    return verdicts


def check_rows(recorded: dict) -> None:
    """ValueError unless both rows hold numbers by name, and their intervals two each."""
    with taken_as_written(Path("results.json")):
        for side in ("base", "erased"):
            for figure, value in recorded[side].items():
                if figure not in NO_FIGURES and value is not None:
                    float(value)
            for interval in (recorded[side].get("intervals") or {}).values():
                low, high = interval or (0, 0)
                float(low), float(high)


def agrees(recorded: float, measured: float | None, interval: list[float] | None) -> bool | None:
    """Whether a value lies in an interval, up to rounding; None without one, unless the value is the recorded one."""
    if measured is None:
        return False
    slack = TOLERANCE * max(1.0, abs(recorded))
    if abs(recorded - measured) <= slack:
        return True
    return None if interval is None else interval[0] - slack <= measured <= interval[1] + slack


def differences(recorded: dict, measured: dict, results: dict, adapter: dict) -> list[str]:
    """What else is not as it was, in words: versions, judges, the adapter's file."""
    old, new = recorded["protocol"], measured["protocol"]
    notes = [
        f"{name} is {now}, was {was}"
        for name, was in old.get("versions", {}).items()
        if (now := new.get("versions", {}).get(name)) != was
    ]
    if old.get("judges") != new.get("judges"):
        notes.append("a judge is not the one that was recorded")
    was = (results.get("adapter") or {}).get("sha256")
    if was not in (None, adapter["sha256"]):
        notes.append("the adapter is not the file that was recorded")
    return notes


def verify(pipe, adapter: str | Path, results: dict, folder: Path, callback: Callback | None = None):
    """(verdicts, notes) for an adapter that the pipeline carries, against what `read_results` gave."""
    facts, recorded = adapter_facts(adapter, scale_of(results)), results["evaluation"]
    measured = measure_again(pipe, recorded, facts, folder, callback)
    return compare(recorded, measured), differences(recorded, measured, results, facts)
