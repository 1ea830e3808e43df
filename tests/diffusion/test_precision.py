"""Every family in fp32, bf16 and fp16, with and without autocast, and on quantised bases: the same layers, nearly the
same bases, and an adapter of one loads on the others."""

import functools
import warnings

import pytest
import torch
from quantised import KINDS, quantised
from tiny import QUICK
from tiny_families import FAMILIES, load_family

from semu_diffusion import erase, load_adapter
from semu_diffusion.adapter.gradients import LossScale
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.diffusion import precision
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.pipeline import component, denoiser

SHORT = {**QUICK, "target_modules": "all", "geometry": "remain", "latents": 4, "keep_latents": 4, "sampler_steps": 2,
         "steps": 2, "max_rank": 4, "lr": 0.1, "compress": 1, "precision": "fp32"}  # fmt: skip
WAYS = {"bf16": (torch.bfloat16, "no"), "fp16": (torch.float16, "no"), "fp32 under bf16": (torch.float32, "bf16"),
        "fp32 under fp16": (torch.float32, "fp16")}  # fmt: skip
# Mean cos^2 between a basis and the one in fp32. A FLUX of random weights hardly looks at its prompt, so the
# difference that its gradient is made of is near what bf16 rounds away.
LEAST = {"fp16": 0.99, "bf16": 0.98, "flux bf16": 0.75}


def bases_of(pipe):
    """U and V of each adapted layer."""
    layers = semu_layers(denoiser(pipe)).items()
    return {name: (layer.semu_U["default"], layer.semu_V["default"]) for name, layer in layers}


def overlap(A, B):
    """Mean cos^2 of the angles between the spaces of two matrices' columns: 1 where one holds the other."""
    A, B = torch.linalg.qr(A).Q, torch.linalg.qr(B).Q
    return (A.T @ B).square().sum().item() / min(A.shape[1], B.shape[1])


def mean_overlap(found, truth):
    """Of all layers, the worse of U and V of each."""
    return sum(min(map(overlap, found[k], truth[k])) for k in truth) / len(truth)


def erased(pipe, output=None, **options):
    """The erasure of a concept, or of a class."""
    concept = "3" if family_of(pipe).empty is None else "cigarette"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*targeted layers have no forgetting gradient")  # a layer of SD3, anywhere
        return erase(pipe, concept, output, **{**SHORT, **options})


@pytest.fixture(scope="module")
def in_fp32(family_folder, tmp_path_factory):
    """By family: the adapter's folder and the bases in fp32."""

    def run(name):
        pipe, folder = load_family(family_folder(name)), tmp_path_factory.mktemp(name)
        erased(pipe, folder / "out")
        return folder / "out", bases_of(pipe)

    return functools.cache(run)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_layers_and_nearly_the_same_bases(name, way, family_folder, in_fp32):
    dtype, mixed = WAYS[way]
    pipe = load_family(family_folder(name))
    pipe.to(dtype)
    result = erased(pipe, mixed_precision=mixed)
    truth, found = in_fp32(name)[1], bases_of(pipe)
    assert found.keys() == truth.keys() and len(found) == result.facts["layers"]
    kind = way.split()[-1]
    assert mean_overlap(found, truth) > LEAST.get(f"{name} {kind}", LEAST[kind])
    assert all(v.isfinite().all() and v.dtype == torch.float32 for pair in found.values() for v in pair)
    assert denoiser(pipe).dtype == dtype and all(
        torch.isfinite(torch.tensor(r["loss"])) for r in result.progress.history
    )


@torch.no_grad()
def effect(pipe, folder):
    """How an adapter changes the model's prediction, as fp32."""
    family = family_of(pipe)
    x = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1)).to(family.dtype)
    prompts = ["3", "1"] if family.empty is None else ["a picture of a cigarette", ""]
    predict = lambda: family.predict(x, family.times(torch.tensor([0.2, 0.9])), family.encode(prompts)).float()  # noqa: E731
    before = predict()
    load_adapter(pipe, folder, scale=4.0)  # far from what rounding to bf16 does
    return predict() - before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_an_adapter_of_fp32_has_its_effect_in_half_precision(name, dtype, family_folder, in_fp32):
    half = load_family(family_folder(name))
    half.to(dtype)
    folder = in_fp32(name)[0]
    there, here = effect(load_family(family_folder(name)), folder), effect(half, folder)
    assert torch.nn.functional.cosine_similarity(there.flatten(), here.flatten(), dim=0) > (
        0.7 if dtype == torch.bfloat16 else 0.98
    )


def test_an_overflow_begins_again_with_a_smaller_scale_and_loses_no_step(family_folder, monkeypatch):
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**60)
    pipe, seen = load_family(family_folder("sd1")), []
    pipe.to(torch.float16)
    smaller = LossScale.smaller
    monkeypatch.setattr(LossScale, "smaller", lambda self: seen.append(self.value) or smaller(self))
    result = erased(pipe, steps=3)
    assert len(seen) > 3 and seen == sorted(seen, reverse=True)
    assert [row["step"] for row in result.progress.history] == [1, 2, 3]
    moved = [layer.semu_R["default"].abs().max() > 0 for layer in semu_layers(pipe.unet).values()]
    assert all(moved)


def test_layers_without_gradient_are_named(family_folder):
    pipe = load_family(family_folder("sd3"))
    with pytest.warns(UserWarning, match="1 of 37 targeted layers have no forgetting gradient .* transformer_blocks.1"):
        erase(pipe, "cigarette", **SHORT)


# ------------------------------------------------------------------------------------------- quantised


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_gets_all_its_layers(kind, family_folder, in_fp32):
    folder, truth = in_fp32("flux")
    pipe = load_family(family_folder("flux"))
    part = component(pipe)
    pipe.register_modules(**{part: quantised(kind, denoiser(pipe), family_folder("flux") / part)})
    change = effect(pipe, folder)  # an adapter trained on fp32 loads on it
    assert change.isfinite().all() and change.abs().max() > 0
    denoiser(pipe).delete_adapters("default")
    result = erased(pipe)
    found = bases_of(pipe)
    assert found.keys() == truth.keys() and result.facts["layers"] == len(truth)
    assert mean_overlap(found, truth) > (0.75 if "4" in kind else 0.95)
    with pytest.raises(ValueError, match="a quantised .* takes no update into its weight"):
        next(layer for name, layer in semu_layers(denoiser(pipe)).items() if "single" in name).merge()
