"""Adapters from folders, files and the Hub onto a pipeline, and the mixin that gives a pipeline class erasers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..diffusion import multi_adapter, pipeline
from ..diffusion.multi_adapter import erasing, set_weights, short_names
from .transfer import local


class EraserLoaderMixin:
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


def load_adapter(
    pipe, path: str | Path, adapter_name: str = "default", scale: float = 1.0, revision: str | None = None
):
    """`diffusion.load_adapter` from a folder, a `.safetensors` file, or a Hub repository "user/name".

    Raises:
        ValueError: as `pull`, or an adapter for another model (names the first layer that differs).
    """
    return pipeline.load_adapter(pipe, local(path, revision), adapter_name, scale)


def load_adapters(
    pipe, paths: Mapping[str, str | Path] | Sequence[str | Path], weights: Sequence[float] | None = None
) -> dict:
    """`diffusion.multi_adapter.load_adapters` from folders, files and Hub repositories, all active at their weights.

        load_adapters(pipe, {"cigarette": "no-cigarette", "sepia": "someone/no-sepia"}, [1.0, 0.5])
        set_weights(pipe, {"cigarette": 1.0})  # the other one off

    Raises:
        ValueError: as `load_adapter`; another number of weights; a name that is taken.
    """
    named = dict(paths) if isinstance(paths, Mapping) else dict(zip(short_names(paths), paths))
    return multi_adapter.load_adapters(pipe, {name: local(path) for name, path in named.items()}, weights)
