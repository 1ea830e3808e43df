"""The pipeline's own way: what we compute along its trajectory is what its own loop computes, for every family."""

import functools
from dataclasses import replace

import pytest
import torch
from tiny_families import FAMILIES, load_family

from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.families.packed import unpack
from semu_diffusion.diffusion.states import Contexts, trajectory

TEXT = [name for name in FAMILIES if name != "classes"]
PROMPT = "a picture of a cigarette"


def latents_of(pipe, steps, guidance, **options):
    """The pipeline's latents after each of its steps, the last of which nothing follows."""
    seen, step, family = [], pipe.scheduler.step, family_of(pipe)
    asked = {**family.asked([PROMPT], guidance), **options}

    @functools.wraps(step)  # a pipeline looks at what it takes
    def watch(*arguments, **more):
        out = step(*arguments, **more)
        seen.append(out[0].clone())
        return out

    pipe.scheduler.step = watch
    pipe.set_progress_bar_config(disable=True)
    try:
        pipe(**asked, num_inference_steps=steps, generator=torch.Generator().manual_seed(5), output_type="latent")
    finally:
        del pipe.scheduler.step
    return seen


def own_trajectory(family, steps, guidance):
    """The records of ours at the pipeline's own times, from the same noise."""
    family.sampler = replace(family.sampler, few=True)
    words = Contexts(family, [PROMPT], guidance)
    generator = torch.Generator().manual_seed(1)
    return trajectory(family, words, [PROMPT], [""], [True], steps, guidance, generator, [5])


def unpacked(family, latents):
    """Latents as ours are, where the pipeline keeps a sequence of patches."""
    if latents.ndim > 3:
        return latents
    channels, height, width = family.latent_shape
    if latents.shape[2] == channels:
        return latents.transpose(1, 2).reshape(-1, channels, height, width)
    return unpack(latents, height, width)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_trajectory_is_that_of_the_pipeline(name, guidance, family_folder):
    pipe = load_family(family_folder(name))
    options = {"use_resolution_binning": False} if name == "pixart" else {}
    seen = [unpacked(family_of(pipe), x) for x in latents_of(pipe, 3, guidance, **options)]
    found = [r["x"] for r in own_trajectory(family_of(pipe), 3, guidance)]
    for k in (1, 2):
        torch.testing.assert_close(found[k], seen[k - 1], rtol=0, atol=1e-5)
    assert (found[2] - found[1]).abs().max() > 1e-2
