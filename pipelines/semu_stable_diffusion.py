"""Stable Diffusion with named erasers: `pipe(prompt, erase={"cigarette": 1.0})`.

    pipe = DiffusionPipeline.from_pretrained(base, custom_pipeline="pipelines/semu_stable_diffusion.py", trust_remote_code=True)
    pipe.load_eraser("cigarette", "no-cigarette")  # a folder or user/name
    pipe("a picture of a cigarette", erase={"cigarette": 0.8})

Without `erase`, or with a strength of 0, the base model draws. Everything else is diffusers' own pipeline.
"""  # noqa: E501

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from semu_diffusion.hub.loaders import EraserLoaderMixin


class SemuStableDiffusionPipeline(EraserLoaderMixin, StableDiffusionPipeline):
    """StableDiffusionPipeline with `load_eraser` and the argument `erase`: {name of a loaded eraser: strength}."""
