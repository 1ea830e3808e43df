"""Latent consistency models under their own pipeline."""

from __future__ import annotations

from .stable_diffusion import StableDiffusion


class LatentConsistency(StableDiffusion):
    """A Stable Diffusion 1.x that was distilled to few steps, with the guidance as an input. Conditions as there."""

    pipelines = ("LatentConsistencyModelPipeline",)
    title = "latent consistency models (UNet2DConditionModel, few steps, distilled guidance)"
    exports = ("native", "diffusers", "kohya", "merged")
    guided = False
