"""Prints the lowest version of every library that pyproject.toml allows, as requirements, for `make test-lowest`.

    python scripts/lower_bounds.py > lowest.txt

Libraries without a lower bound are an error: nobody could say what works.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib


def lowest(line: str) -> str:
    """The requirement with its lower bound alone: "torch>=2.9,<3; marker" -> "torch==2.9; marker"."""
    found = re.fullmatch(r"([\w.-]+(?:\[[\w,]+\])?)\s*>=\s*([\w.]+)[^;]*(;.*)?", line)
    if not found:
        raise SystemExit(f"error: {line!r} in pyproject.toml has no lower bound")
    return f"{found[1]}=={found[2]}{found[3] or ''}"


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print("\n".join(lowest(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]))


if __name__ == "__main__":
    main()
