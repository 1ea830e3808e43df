"""What a run leaves behind: its facts, the adapter folder, results.json."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import warnings
from pathlib import Path

import torch

from ..adapter.claims import WORK, remove_files
from ..adapter.subspace import Basis
from ..adapter.weights import header_of, semu_layers, write_atomic
from ..versions import versions
from .devices import execution_device
from .export import Warn, save_loras
from .naming import KOHYA, OLD_KOHYA
from .pipeline import save_adapters

# Written after the adapter; those of an earlier erasure or merging go first.
REPORTS = ("evaluation.json", "records.json", "concepts.png", "before_after.png", "loss.png", "interference.png",
           "fusion.png", "README.md", "report.html")  # fmt: skip
GALLERY = "gallery"  # the folder of pictures that records.json lists


def measure(family, bases: dict[str, Basis], progress) -> dict:
    """Sizes, ranks, energy and what is left of the concept."""
    layers = semu_layers(family.model)
    own = sum(p.numel() for n, p in family.model.named_parameters() if "semu_" not in n)
    trained = sum(layer.semu_R["default"].numel() for layer in layers.values())
    left = [row["left"] for row in progress.history if "left" in row]
    return {
        "steps": progress.step,
        "left": left[-1] if left else None,
        "layers": len(layers),
        "ranks": {name: layer.r["default"] for name, layer in layers.items()},
        "energy": {name: basis.energy for name, basis in bases.items()},
        "trained": trained,
        "trained_percent": 100 * trained / own,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
    }


def remove_reports(folder: Path) -> None:
    """Takes away what an earlier run reported about another adapter in this folder, and that one's kohya file."""
    for name in REPORTS:
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob(f"*{KOHYA}"):
        if file.name == OLD_KOHYA or "semu.version" in header_of(file):
            file.unlink()
    remove_files(folder / GALLERY, r"(base|erased)-\d+\.png")


def write_outputs(erasure, base_model: str, warn: Warn = warnings.warn, keep_work: bool = False) -> None:
    """Adapter, LoRA and results.json, an older run's reports removed; the working files go away last, or stay."""
    remove_reports(erasure.folder)
    options, other = erasure.config.used(), {k: erasure.facts[k] for k in ("method", "paper") if k in erasure.facts}
    about = {"base_model": base_model, **options, **erasure.plan.about()}
    about, folder = {**{k: v for k, v in about.items() if k != "method"}, **other}, erasure.folder
    save_adapters(erasure.pipe, folder, about, precision=erasure.config.precision)
    save_loras(erasure.pipe, folder, warn, erasure.config.precision)
    machine = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(execution_device(erasure.pipe)),
    }
    results = {
        "base_model": base_model,
        "options": options,
        "training": erasure.facts,
        "history": erasure.progress.history,
        "versions": versions(),
        "machine": machine,
    }
    write_atomic(folder / "results.json", json.dumps(results, indent=1))
    if not keep_work:
        shutil.rmtree(folder / WORK, ignore_errors=True)
