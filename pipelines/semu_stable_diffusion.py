"""Stable Diffusion with named erasers: `pipe(prompt, erase={"cigarette": 1.0})`.

    pipe = DiffusionPipeline.from_pretrained(base, custom_pipeline="pipelines/semu_stable_diffusion.py", trust_remote_code=True)
    pipe.load_eraser("cigarette", "no-cigarette")  # a folder or user/name
    pipe("a picture of a cigarette", erase={"cigarette": 0.8})

Without `erase`, or with a strength of 0, the base model draws. Everything else is diffusers' own pipeline.
"""  # noqa: E501

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from semu_diffusion import load_adapters, set_weights
from semu_diffusion.diffusion.many import erasing


class SemuStableDiffusionPipeline(StableDiffusionPipeline):
    """StableDiffusionPipeline with the argument `erase`: {name of a loaded eraser: strength}."""

    def load_eraser(self, name: str, path: str) -> None:
        """Loads an adapter, of text encoders too, under a name; it stays off until a call asks for it.

        Raises:
            ValueError: no such adapter, one for another model, or a name that is taken.
        """
        load_adapters(self, {name: path})
        set_weights(self, {})

    def __call__(self, *args, erase: dict[str, float] | None = None, **kwargs):
        """As StableDiffusionPipeline, with these erasers at these strengths for this call.

        Raises:
            ValueError: the name of an eraser that was not loaded, or a negative strength.
        """
        with erasing(self, erase):
            return super().__call__(*args, **kwargs)
