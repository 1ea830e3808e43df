"""attacks.json: written after each attack, taken up again by --resume."""

from __future__ import annotations

import json
from pathlib import Path

from ..adapter.claims import read_json
from ..adapter.weights import write_atomic

FILE = "attacks.json"


def read_done(path: Path, head: dict) -> dict:
    """The results of an interrupted run with the same options. ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"nothing to resume in {path.parent}; leave out --resume")
    old = read_json(path)
    if not isinstance(old, dict) or not isinstance(old.get("attacks"), dict):
        raise ValueError(f"{path} is not what `semu attack` wrote; begin again with --overwrite")
    if {k: old.get(k) for k in head} != json.loads(json.dumps(head)):
        raise ValueError(f"{path.parent} was begun with other options or another adapter; use those, or --overwrite")
    return old["attacks"]


def write_results(path: Path, head: dict, found: dict) -> None:
    """attacks.json, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({**head, "attacks": found}, indent=1))
