"""The pipeline's own way: what we compute along its trajectory is what its own loop computes, for every family."""

import functools
from dataclasses import replace

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler
from tiny_families import FAMILIES, load_family

from semu_diffusion import draw, load_pipeline
from semu_diffusion.cli.erase import for_family
from semu_diffusion.diffusion.families import Sampler, drawing_defaults, family_of, guided, sampler_of
from semu_diffusion.diffusion.families.packed import unpack
from semu_diffusion.diffusion.recipes import recipes
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


# --------------------------------------------------------------------------------- steps and guidance


def named(pipe, name):
    pipe.register_to_config(_name_or_path=name)
    return pipe


def test_steps_and_guidance_are_the_pipelines_own(family_folder):
    found = {name: sampler_of(load_family(family_folder(name))) for name in FAMILIES}
    assert found["sd1"] == found["sd2"] == Sampler(50, 7.5) and found["sdxl"] == Sampler(50, 5.0)
    assert found["sd3"] == Sampler(28, 7.0) and found["flux"] == Sampler(28, 3.5)
    assert found["pixart"] == Sampler(20, 4.5) and found["classes"] == Sampler(50, 1.0)
    assert found["sd1"].erasing == 10
    embedded = load_pipeline("pictograms", "cpu")
    assert drawing_defaults(embedded) == Sampler(20, 3.0) and sampler_of(embedded) == Sampler(50, 7.5)


@pytest.mark.parametrize("family, name, steps, guidance", [
    ("sdxl", "stabilityai/sdxl-turbo", 4, 0.0), ("sdxl", "/models/DreamShaperXL-Lightning", 4, 0.0),
    ("sdxl", "/home/me/.cache/huggingface/hub/models--stabilityai--sdxl-turbo/snapshots/0123abcd", 4, 0.0),
    ("sd3", "stabilityai/stable-diffusion-3.5-large-turbo", 4, 0.0), ("flux", "x/FLUX.1-schnell", 4, 0.0),
])  # fmt: skip
def test_distilled_models_are_known_by_name(family, name, steps, guidance, family_folder):
    pipe = named(load_family(family_folder(family)), name)
    assert sampler_of(pipe) == Sampler(steps, guidance, few=True) and sampler_of(pipe).erasing == steps


def test_a_folder_that_a_model_lies_in_says_nothing(family_folder):
    assert sampler_of(named(load_family(family_folder("sd1")), "/home/turbo/sd15")) == Sampler(50, 7.5)


def test_distilled_models_are_known_by_what_they_say_of_themselves(family_folder):
    pipe = load_family(family_folder("sdxl"))
    config = pipe.scheduler.config
    for kind in (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler):
        pipe.scheduler = kind.from_config(config, timestep_spacing="trailing")
        assert sampler_of(pipe) == Sampler(4, 0.0, few=True)
        pipe.scheduler = kind.from_config(config, timestep_spacing="leading")
        assert not sampler_of(pipe).few
        pipe.scheduler = kind.from_config(config, timestep_spacing="trailing", prediction_type="v_prediction")
        assert not sampler_of(pipe).few  # zero terminal SNR asks for it, too
    pipe.scheduler = LCMScheduler.from_config(config)
    assert sampler_of(pipe) == Sampler(4, 1.0, few=True)
    flux = load_family(family_folder("flux"))
    flux.transformer.register_to_config(guidance_embeds=False)
    assert not sampler_of(flux).few  # a FLUX whose guidance was taken out again
    flux.scheduler.register_to_config(use_dynamic_shifting=False)
    assert sampler_of(flux) == Sampler(4, 0.0, few=True)


def test_a_recipe_leaves_the_sampler_of_a_distilled_model_alone(family_folder):
    plain, turbo = load_family(family_folder("sdxl")), named(load_family(family_folder("sdxl")), "x/sdxl-turbo")
    options = [for_family(recipes()["object"], pipe, {"concept": "cat"}, None) for pipe in (plain, turbo)]
    assert [(o.sampler_steps, o.guidance) for o in options] == [(30, 5.0), (None, None)]
    assert for_family(recipes()["object"], turbo, {"concept": "cat", "sampler_steps": 2}, None).sampler_steps == 2


@pytest.mark.parametrize("kind", [EulerAncestralDiscreteScheduler, LCMScheduler])
def test_a_distilled_model_is_asked_where_its_sampler_asks_it(kind, family_folder):
    """One step of Turbo is asked at pure noise, and what it is given is what the pipeline gives it."""
    pipe = load_family(family_folder("sd1"))
    pipe.scheduler = kind.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    family, seen = family_of(pipe), []
    assert family.sampler.few
    handle = pipe.unet.register_forward_hook(lambda module, args, out: seen.append((args[0], args[1])))
    pipe.set_progress_bar_config(disable=True)
    pipe(PROMPT, num_inference_steps=2, guidance_scale=0.0, output_type="latent",
         generator=torch.Generator().manual_seed(5))  # fmt: skip
    handle.remove()
    records = own_trajectory(family, 2, 0.0)
    for (x, t), record in zip(seen, records, strict=True):
        torch.testing.assert_close(record["x"], x, rtol=0, atol=1e-5)
        assert record["t"].tolist() == [t.item()]


def test_no_guidance_is_the_prompts_own_prediction():
    own, empty = torch.tensor([3.0]), torch.tensor([1.0])
    assert [guided(own, empty, g).item() for g in (0, 1, 2)] == [3, 3, 5]


def test_textual_inversions_are_read_as_the_pipeline_reads_them(family_folder):
    pipe = load_family(family_folder("sd1"))
    pipe.load_textual_inversion({"<thing>": torch.randn(3, 32)}, token="<thing>")
    family = family_of(pipe)
    words = family.encode(["a picture of <thing>"])["text"]
    expected, _ = pipe.encode_prompt("a picture of <thing>", "cpu", 1, False)
    assert torch.equal(words, expected)
    assert (words - family.encode(["a picture of thing"])["text"]).abs().max() > 1e-3
    ids = family_of(pipe, "text_encoder").encode(["a picture of <thing>"])["ids"]
    assert len(set(ids[0].tolist()) - {pipe.tokenizer.pad_token_id}) >= 7  # three vectors, each a token


def test_draw_takes_the_pipelines_own_guidance(family_folder, monkeypatch):
    pipe, seen = load_family(family_folder("sd3")), {}
    call = type(pipe).__call__

    @functools.wraps(call)  # whose defaults are looked at
    def watch(self, **options):
        seen.update(options)
        return call(self, **options)

    monkeypatch.setattr(type(pipe), "__call__", watch)
    draw(pipe, ["a cat"], [0], steps=1)
    assert seen["guidance_scale"] == 7.0 and seen["num_inference_steps"] == 1 and seen["prompt"] == ["a cat"]


def test_the_embedded_model_is_known_by_its_name_and_by_its_folder(assets):
    """The shell names it, a pipeline that was loaded by hand has its folder."""
    pipe = load_pipeline("pictograms", "cpu")
    for name in ("pictograms", str(assets)):
        pipe.register_to_config(_name_or_path=name)
        own = drawing_defaults(pipe)
        assert (own.erasing, own.guidance) == (10, 3.0), name
