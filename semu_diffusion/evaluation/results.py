"""What an evaluation is of and what it leaves behind: adapter, figures and records as files."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import torch

from ..adapter import SemuConfig
from ..adapter.config import erased_concepts
from ..adapter.weights import WEIGHTS, write_atomic


def adapter_facts(path: str | Path, scale: float) -> dict:
    """{"sha256", "scale"}: which adapter, at which strength; the hash is over its weights' files."""
    path = Path(path)
    files = sorted(path.rglob(WEIGHTS)) if path.is_dir() else [path]
    return {"sha256": hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest(), "scale": scale}


def write_evaluation(
    folder: Path, report: dict, records: dict | None, base_model: str | None, adapter: dict | None
) -> None:
    """records.json (every picture), results.json (figures, model and adapter), and evaluation.json (figures) last.

    The last of them says that all is there, so charts come before this.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads()}
    results = {"base_model": base_model, "adapter": adapter, "evaluation": report, "machine": machine}
    if records is not None:
        plain = {side: [{k: v for k, v in r.items() if k != "features"} for r in own] for side, own in records.items()}
        write_atomic(folder / "records.json", json.dumps(plain))
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
    write_atomic(folder / "evaluation.json", json.dumps(report, indent=1))


def concepts_of(config: SemuConfig) -> list[str]:
    """The concepts that an adapter was trained to erase, also before. ValueError where it does not say."""
    concepts = erased_concepts(config.about)
    if not concepts:
        raise ValueError("the adapter does not say what it erases; name it with --concept")
    return concepts
