"""Named erasers on a pipeline, each on at a strength per call: what the custom pipelines add to diffusers' own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from .diffusion.many import set_weights
from .hub import load_adapters


class Erasers:
    """A mixin before a diffusers pipeline: `load_eraser`, and the argument `erase` of a call."""

    def load_eraser(self, name: str, path: str) -> None:
        """Loads an adapter, of text encoders too, under a name; it stays off until a call asks for it.

        Args:
            path: Folder, .safetensors file, or user/name on the Hub.

        Raises:
            ValueError: no such adapter, one for another model, or a name that is taken.
        """
        load_adapters(self, {name: path})
        set_weights(self, {})

    def __call__(self, *args, erase: Mapping[str, float] | None = None, **kwargs):
        """As the pipeline it is mixed into, with these erasers at these strengths for this call.

        Raises:
            ValueError: the name of an eraser that was not loaded, or a negative strength.
        """
        with erasing(self, erase):
            return super().__call__(*args, **kwargs)


@contextlib.contextmanager
def erasing(pipe, erase: Mapping[str, float] | None) -> Iterator[None]:
    """Loaded adapters at these strengths for the time of the block, all others off; afterwards all are off.

    Raises:
        ValueError: the name of an adapter that was not loaded, or a strength below 0.
    """
    if any(not strength >= 0 for strength in (erase or {}).values()):
        raise ValueError("a strength must not be negative")
    set_weights(pipe, erase or {})
    try:
        yield
    finally:
        set_weights(pipe, {})
