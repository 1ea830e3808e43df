"""The shell interface, `semu`."""

import os

# Before transformers and diffusers are imported: their notices would stand between our own lines.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

from .app import main  # noqa: E402

__all__ = ["main"]
