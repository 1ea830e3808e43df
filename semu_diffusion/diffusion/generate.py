"""Pictures from a pipeline, one seed per picture, so that any batch size or sharding draws the same ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch


@torch.no_grad()
def draw(
    pipe,
    prompts: list[str],
    seeds: list[int],
    steps: int | None = None,
    guidance: float | None = None,
    batch_size: int = 48,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Images (N, 3, H, W), float32 on the CPU in [0, 1], through the pipeline's own `__call__`.

    Steps and guidance are by default the pipeline's own, for distilled models those of their cards; of a video the
    middle frame is drawn.

    Class-conditional models have none that takes labels; the family draws for them, guided if there is an empty class.

    Raises:
        ValueError: prompts and seeds of different numbers, or a model that goes on from pictures.
    """
    from .families import ClassConditional, drawing_defaults, unchecked

    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    family, own = unchecked(pipe), drawing_defaults(pipe)
    if family and not family.draws:
        raise ValueError(f"a {type(pipe).__name__} draws nothing from text alone; give it a picture in diffusers")
    steps, guidance = own.steps if steps is None else steps, own.guidance if guidance is None else guidance
    if isinstance(family, ClassConditional):
        return family.draw(prompts, seeds, steps, batch_size, progress, guidance)
    pipe.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        asked = (
            family.asked(prompts[part], guidance) if family else {"prompt": prompts[part], "guidance_scale": guidance}
        )
        drawn = pipe(**asked, num_inference_steps=steps, generator=generators, output_type="pt")
        images.append((family.pictures(drawn) if family else drawn.images).float().cpu())
        blackened = sum(bool(flag) for flag in getattr(drawn, "nsfw_content_detected", None) or ())
        if blackened:
            warnings.warn(f"the safety checker blackened {blackened} of {len(images[-1])} pictures", stacklevel=2)
        if progress:
            progress(len(images[-1]))
    return torch.cat(images)
