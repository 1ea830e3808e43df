"""attacks.json: written after each attack, taken up again by --resume."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "attacks.json"


def read_done(path: Path, head: dict) -> dict:
    """The results of an interrupted run with the same options. ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"nothing to resume in {path.parent}; leave out --resume")
    old = json.loads(path.read_text())
    if {k: old.get(k) for k in head} != json.loads(json.dumps(head)):
        raise ValueError(f"{path.parent} was begun with other options or another adapter; use those, or --overwrite")
    return old["attacks"]


def write_results(path: Path, head: dict, found: dict) -> None:
    """attacks.json, under a temporary name first."""
    from ..adapter.weights import write_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({**head, "attacks": found}, indent=1))
