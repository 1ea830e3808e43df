"""The shell interface, `semu`."""

import os
import sys

# Before transformers and diffusers are imported: their notices would stand between our own lines.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

if sys.flags.optimize >= 2:
    print("semu: python -OO takes away docstrings that transformers reads; use python -O, or neither", file=sys.stderr)
    sys.exit(2)

from .entry import main  # noqa: E402

__all__ = ["main"]
