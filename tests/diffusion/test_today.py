"""The families of today as tiny pipelines: the trajectory of their own loop, erasing, the adapter as others load it."""

import copy
import functools
import warnings

import pytest
import torch
from test_own_sampler import latents_of, own_trajectory, unpacked
from tiny_clip import build_clip
from tiny_dits import NAMES, build_dit

from semu_diffusion import draw, erase, load_adapter, load_pipeline
from semu_diffusion.adapter.weights import LORA
from semu_diffusion.diffusion.export import export
from semu_diffusion.diffusion.families import family_of, wan
from semu_diffusion.diffusion.pipeline import switched_off
from semu_diffusion.evaluation.suites.run import EvalConfig, run_suite

SHORT = {"geometry": "euclidean", "latents": 2, "keep_latents": 2, "sampler_steps": 2, "batch_size": 2, "steps": 2,
         "max_rank": 2, "strength": 1.0, "lr": 0.1, "anchor": "apple", "near": 0.0}  # fmt: skip
PROMPT = "a picture of a cigarette"


@pytest.fixture(scope="module", autouse=True)
def small_videos():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wan, "SIZE", (32, 32))
        patch.setattr(wan, "FRAMES", 5)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> the pipeline of a family, built once; nothing may change it."""
    return functools.cache(lambda name: build_dit(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A function that evaluates a pipeline with its adapter by a tiny CLIP: the suite's report."""
    folder = tmp_path_factory.mktemp("judge")
    build_clip(folder / "clip")
    (folder / "prompts.csv").write_text("prompt,seed,class\na picture of a cigarette,0,cigarette\na cat,1,cat\n")
    config = EvalConfig("custom", ["cigarette"], str(folder / "prompts.csv"), clip=str(folder / "clip"), steps=2)
    return lambda pipe, output: run_suite(pipe, config, output, {"sha256": "0", "scale": 1.0})[0]


@torch.no_grad()
def predict(pipe):
    """The family's prediction for two prompts at two times."""
    family = family_of(pipe)
    x = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1))
    return family.predict(x, family.times(torch.tensor([0.2, 0.99])), family.encode([PROMPT, ""]))


@pytest.mark.parametrize("name", NAMES)
def test_a_trajectory_is_that_of_the_pipeline(name, made):
    pipe = made(name)
    seen = [unpacked(family_of(pipe), x) for x in latents_of(pipe, 3, 2.5)]
    found = [r["x"] for r in own_trajectory(family_of(pipe), 3, 2.5)]
    for k in (1, 2):
        size = max(1.0, seen[k - 1].abs().max().item())
        torch.testing.assert_close(found[k], seen[k - 1], rtol=0, atol=1e-5 * size)
    assert (found[2] - found[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_erased_reloaded_judged_and_as_a_lora(name, made, judged, tmp_path):
    pipe, fresh = copy.deepcopy(made(name)), copy.deepcopy(made(name))
    base = predict(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of layers that a prompt does not reach in so small a model
        erasure = erase(pipe, "cigarette", tmp_path / "out", **SHORT)
    erased = predict(pipe)
    assert erasure.facts["layers"] > 10 and (erased - base).abs().max() > 1e-3
    with switched_off(pipe):
        assert torch.equal(predict(pipe), base)
    load_adapter(fresh, tmp_path / "out")
    assert torch.equal(predict(fresh), erased)
    plain = copy.deepcopy(made(name))
    file = export(pipe, tmp_path / "lora", "diffusers", precision="fp32")
    plain.load_lora_weights(file.parent, weight_name=LORA)
    if name == "wan":
        second = {"weight_name": LORA, "load_into_transformer_2": True}
        plain.load_lora_weights(file.parent / "transformer_2", **second)
    torch.testing.assert_close(predict(plain), erased, rtol=0, atol=1e-5)
    assert (tmp_path / "out" / LORA).is_file()
    picture = draw(pipe, ["a cat"], [0], steps=2)
    assert picture.shape == (1, 3, *family_of(pipe).image_size) and picture.isfinite().all()
    report = judged(pipe, tmp_path / "scores")
    assert report["erased"]["counts"] == {"forget": 1, "keep": 1} and report["erased"]["drift"] > 0


@pytest.mark.parametrize("name", ["z_image", "wan"])
def test_merged_is_a_pipeline_of_its_own(name, made, tmp_path):
    pipe = copy.deepcopy(made(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        erase(pipe, "cigarette", **SHORT)
    erased = predict(pipe)
    export(pipe, tmp_path / "whole", "merged")
    whole = load_pipeline(str(tmp_path / "whole"), "cpu")
    whole.default_sample_size = pipe.default_sample_size
    torch.testing.assert_close(predict(whole), erased, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen_image", "flux2", "sana", "inpainting", "wan"])
def test_given_pictures_become_latents(name, made):
    family = family_of(made(name))
    images = torch.rand(2, 3, *family.image_size, generator=torch.Generator().manual_seed(0))
    found = family.encode_images(images)
    assert found.shape == (2, *family.latent_shape) and (found[0] - found[1]).abs().max() > 1e-3


def test_texts_of_different_lengths_go_together(made):
    """One prompt by itself, and beside a longer one that it is filled up to."""
    for name in ("z_image", "qwen_image"):
        family = family_of(made(name))
        x = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1))
        t = family.times(torch.tensor([0.5, 0.5]))
        with torch.no_grad():
            both = family.predict(x, t, family.encode([PROMPT + " in a photo style", "a cat"]))
            alone = family.predict(x[1:], t[1:], family.encode(["a cat"]))
        torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["z_image", "qwen_image", "sana", "lumina2", "klein", "wan"])
def test_prompts_that_are_cut_off_are_known(name, made):
    family = family_of(made(name))
    whole, cut = family.read(["a cat", "a photo of " * 600 + "cat"])
    assert whole is None and cut.startswith("a photo of a photo") and "cat" not in cut


# ---------------------------------------------------------------------------------------------- refiner


def test_the_refiner_predicts_as_in_its_pipeline(made):
    pipe, seen = made("refiner"), []
    handle = pipe.unet.register_forward_hook(
        lambda module, args, kwargs, out: seen.append((args[0], args[1], out[0])), with_kwargs=True
    )
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pipe(PROMPT, image=image, strength=0.5, num_inference_steps=2, guidance_scale=2.0, output_type="latent")
    handle.remove()
    x, t, output = seen[0]
    family = family_of(pipe)
    with torch.no_grad():
        found = family.predict(x, t.expand(2), family.encode(["", PROMPT]))
    torch.testing.assert_close(found, output, rtol=0, atol=1e-5)
    assert (output[0] - output[1]).abs().max() > 1e-3
    assert family.times(torch.tensor([0.0, 0.999])).tolist() == [0, 199]


def test_the_refiner_is_erased_from_pictures(made, tmp_path):
    from PIL import Image

    for folder, caption in (("forget", PROMPT), ("keep", "a picture of a cat")):
        (tmp_path / folder).mkdir()
        Image.effect_noise((16, 16), 60).convert("RGB").save(tmp_path / folder / "a.png")
        (tmp_path / folder / "a.txt").write_text(caption)
    pipe = copy.deepcopy(made("refiner"))
    with pytest.raises(ValueError, match="goes on from pictures: give --forget-images and --retain-images"):
        erase(pipe, "cigarette", **SHORT)
    base = predict(pipe)
    given = {"forget_images": str(tmp_path / "forget"), "retain_images": str(tmp_path / "keep")}
    erase(pipe, "cigarette", tmp_path / "out", **{**SHORT, **given})
    assert (predict(pipe) - base).abs().max() > 1e-3
    fresh = copy.deepcopy(made("refiner"))
    load_adapter(fresh, tmp_path / "out")
    assert torch.equal(predict(fresh), predict(pipe))
    with pytest.raises(ValueError, match="draws nothing from text alone"):
        draw(pipe, ["a cat"], [0])


# -------------------------------------------------------------------------------------------- refusals


def test_a_hidream_without_its_llama_says_so(made):
    pipe = copy.copy(made("hidream"))
    pipe.text_encoder_4 = None
    with pytest.raises(ValueError, match="HiDream needs a Llama as text_encoder_4"):
        family_of(pipe)


def test_what_each_family_can_be_exported_as_is_what_export_does(made):
    from semu_diffusion.diffusion.families import FAMILIES
    from semu_diffusion.diffusion.lora import has_lora, kind_of

    assert len({name for family in FAMILIES for name in family.pipelines}) == sum(len(f.pipelines) for f in FAMILIES)
    for name in NAMES:
        family = family_of(made(name))
        assert ("diffusers" in family.exports) == has_lora(family.pipe), name
        if name != "kontext":  # whose kohya names are those of a FLUX of real width
            assert ("kohya" in family.exports) == (kind_of(family.pipe) is not None), name
