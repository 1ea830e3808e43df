"""A hook of mkdocs: `<!-- options: module:Class -->` in a page becomes the table of that dataclass's options."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import MISSING, fields

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

MARK = re.compile(r"<!-- options: ([\w.]+):(\w+) -->")


def table(cls: type) -> str:
    """Name, type, default and help of each field."""
    rows = ["| field | type | default | |", "|---|---|---|---|"]
    for f in fields(cls):
        default = f.default_factory() if f.default is MISSING else f.default
        kind = f.type.replace("|", "\\|")
        rows.append(f"| `{f.name}` | `{kind}` | `{default!r}` | {f.metadata['help'].replace('|', '&#124;')} |")
    return "\n".join(rows)


def on_page_markdown(markdown: str, **_) -> str:
    """Fills the marks in."""
    return MARK.sub(lambda found: table(getattr(importlib.import_module(found[1]), found[2])), markdown)
