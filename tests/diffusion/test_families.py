"""Every family through the real entry, and against what its own pipeline computes."""

import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_families import CLASSES, FAMILIES, SIZE, load_family

from semu_diffusion import draw, erase, load_adapter, set_scale
from semu_diffusion.adapter import SemuConfig, find_layers
from semu_diffusion.adapter.weights import LORA, semu_layers
from semu_diffusion.diffusion.config import TARGETS
from semu_diffusion.diffusion.export import export
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.pipeline import denoiser, switched_off
from semu_diffusion.diffusion.states import Contexts, trajectory
from semu_diffusion.hub.card import write_card

QUICK = {"geometry": "euclidean", "latents": 4, "keep_latents": 4, "sampler_steps": 3, "batch_size": 4, "steps": 3,
         "max_rank": 4, "strength": 1.0, "lr": 0.1}  # fmt: skip
TEXT = [name for name in FAMILIES if name != "classes"]
WITH_LORA = ("sd1", "sd2", "sdxl", "sd3", "flux")
FLOWS = ("sd3", "flux")
PROMPT = "a picture of a cigarette"


@pytest.fixture(scope="module")
def erased(family_folder, tmp_path_factory):
    """Each family's erasure: result, folder and base prediction."""
    done = {}

    def run(name):
        if name not in done:
            pipe, output = load_family(family_folder(name)), tmp_path_factory.mktemp(f"{name}-erased")
            base, state = predict(pipe), {k: v.clone() for k, v in denoiser(pipe).state_dict().items()}
            result = erase(pipe, concept(name), output, **QUICK)
            done[name] = result, output, base, state
        return done[name]

    return run


def concept(name):
    return "3" if name == "classes" else "cigarette"


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def predict(pipe):
    """The family's prediction for two prompts at two times."""
    family = family_of(pipe)
    x, t = randn(2, *family.latent_shape), family.times(torch.tensor([0.2, 0.9]))
    prompts = ["3", "1"] if family.empty is None else [PROMPT, ""]
    return family.predict(x, t, family.encode(prompts))


# ------------------------------------------------------------------------------------------------ erasing


@pytest.mark.parametrize("name", FAMILIES)
def test_an_erasure_runs_and_leaves_the_base_as_it_is(name, erased):
    result, output, base, state = erased(name)
    assert len(result.progress.history) == 3
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in result.progress.history)
    assert (predict(result.pipe) - base).abs().max() > 1e-3
    now = denoiser(result.pipe).state_dict()
    now = {k.replace(".base_layer", ""): v for k, v in now.items() if "semu_" not in k}
    assert now.keys() == state.keys() and all(torch.equal(now[k], v) for k, v in state.items())
    assert not any(p.requires_grad for p in denoiser(result.pipe).parameters())
    assert json.loads((output / "results.json").read_text())["training"]["layers"] > 10
    with switched_off(result.pipe):
        assert torch.equal(predict(result.pipe), base)
    assert (predict(result.pipe) - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_the_adapter_comes_back(name, family_folder, erased):
    result, output, base, _ = erased(name)
    pipe = load_family(family_folder(name))
    assert torch.equal(predict(pipe), base)
    load_adapter(pipe, output)
    assert torch.equal(predict(pipe), predict(result.pipe))
    set_scale(pipe, 0.0)
    assert torch.equal(predict(pipe), base)
    set_scale(pipe, 1.0)
    assert torch.equal(predict(pipe), predict(result.pipe))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_lora_is_the_adapter_where_diffusers_has_one(name, family_folder, erased):
    result, output, base, _ = erased(name)
    assert (output / LORA).is_file() == (name in WITH_LORA)
    if name not in WITH_LORA:
        with pytest.raises(ValueError, match="loads no LoRA"):
            export(result.pipe, output / "lora", "diffusers")
        return
    exact = export(result.pipe, output / "exact", "diffusers", precision="fp32")
    for file, atol in ((exact, 1e-5), (output / LORA, 1e-4)):  # the one beside the adapter is fp16
        pipe = load_family(family_folder(name))
        pipe.load_lora_weights(file.parent, weight_name=LORA)
        torch.testing.assert_close(predict(pipe), predict(result.pipe), rtol=0, atol=atol)
        pipe.unload_lora_weights()
        torch.testing.assert_close(predict(pipe), base, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sd3", "pixart", "classes"])
def test_merged_is_the_adapter_without_its_layers(name, family_folder, erased, tmp_path):
    result, output, *_ = erased(name)
    pipe = load_family(family_folder(name))
    load_adapter(pipe, output)
    export(pipe, tmp_path, "merged")
    assert not semu_layers(denoiser(pipe))
    merged = load_family(tmp_path)
    torch.testing.assert_close(predict(merged), predict(result.pipe), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sd1", "sd3", "flux", "pixart", "classes"])
def test_presets_name_attention_layers(name, family_folder):
    model = denoiser(load_family(family_folder(name)))
    find = lambda preset: set(find_layers(model, SemuConfig(target_modules=TARGETS[preset])))  # noqa: E731
    cross, attention = find("cross-attention"), find("attention")
    assert cross <= attention < find("all")
    assert bool(cross) == (name != "classes")  # whose label goes in with the time
    assert all("attn" in layer or "attentions" in layer for layer in attention)
    assert not any(part in layer for layer in attention for part in ("mlp", "ff", "norm"))


@pytest.mark.parametrize("name", ["flux", "classes"])
def test_the_card_shows_what_the_folder_has(name, erased):
    _, output, *_ = erased(name)
    write_card(output, json.loads((output / "results.json").read_text()))
    assert ("load_lora_weights" in (output / "README.md").read_text()) == (name in WITH_LORA)


# ------------------------------------------------------------------------------ as the pipeline calls it


def first_call(pipe, *arguments, **options):
    """What a pipeline gives to its denoiser in its first step, and gets: (x, t, output)."""
    seen = []

    def watch(module, args, kwargs, output):
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        t = kwargs["timestep"] if "timestep" in kwargs else args[1]
        seen.append((x, t, output[0]))

    handle = denoiser(pipe).register_forward_hook(watch, with_kwargs=True)
    try:
        pipe.set_progress_bar_config(disable=True)
        pipe(*arguments, num_inference_steps=2, output_type="latent", **options)
    finally:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", TEXT)
def test_predictions_are_those_of_the_pipeline(name, family_folder):
    pipe = load_family(family_folder(name))
    family = family_of(pipe)
    options = {"use_resolution_binning": False} if name == "pixart" else {}
    x, t, output = first_call(pipe, PROMPT, guidance_scale=2.5, generator=torch.Generator().manual_seed(0), **options)
    prompts = ["", PROMPT]  # guidance puts the empty prompt first
    if name == "flux":
        prompts, t = [PROMPT], 1000 * t
        x, output = (pipe._unpack_latents(v, 2 * SIZE, 2 * SIZE, pipe.vae_scale_factor) for v in (x, output))
    if name == "pixart":
        output = output.chunk(2, 1)[0]
    assert x.shape == (len(prompts), *family.latent_shape)
    with torch.no_grad():
        found = family.predict(x, t.expand(len(x)), family.encode(prompts, 2.5))
    torch.testing.assert_close(found, output, rtol=0, atol=1e-5)
    if len(prompts) == 2:
        assert (output[0] - output[1]).abs().max() > 1e-3


def test_the_guidance_is_an_input_of_flux(family_folder):
    family = family_of(load_family(family_folder("flux")))
    x, t = randn(1, *family.latent_shape), torch.tensor([700.0])
    with torch.no_grad():
        low, high = (family.predict(x, t, family.encode([PROMPT], g)) for g in (1.0, 7.0))
    assert (low - high).abs().max() > 1e-5
    family.model.register_to_config(guidance_embeds=False)
    assert "guidance" not in family.encode([PROMPT])


def test_sizes_are_an_input_of_the_large_pixart(family_folder):
    family = family_of(load_family(family_folder("pixart")))
    x = randn(2, *family.latent_shape)
    assert family.sizes(x) == {"resolution": None, "aspect_ratio": None}
    family.model.use_additional_conditions = True
    sizes = family.sizes(x)
    assert sizes["resolution"].tolist() == [[2 * SIZE, 2 * SIZE]] * 2 and sizes["aspect_ratio"].tolist() == [[1.0]] * 2


def test_classes_are_labels(family_folder):
    pipe = load_family(family_folder("classes"))
    family, x, t = family_of(pipe), randn(2, 3, SIZE, SIZE), torch.tensor([4, 900])
    with torch.no_grad():
        by_hand = pipe.unet(x, t, class_labels=torch.tensor([3, 0])).sample
        assert torch.equal(family.predict(x, t, family.encode(["3", "0"])), by_hand)
    for wrong in ("cat", "5", ""):
        with pytest.raises(ValueError, match="no class .*0 to 4"):
            family.encode([wrong])


def test_pictures_of_classes(family_folder):
    pipe = load_family(family_folder("classes"))
    with torch.backends.mkldnn.flags(enabled=False):  # on some processors it takes other kernels for other batches
        both, one = draw(pipe, ["3", "1"], [5, 6], steps=3), draw(pipe, ["1"], [6], steps=3)
    assert both.shape == (2, 3, SIZE, SIZE) and both.min() >= 0 and both.max() <= 1
    torch.testing.assert_close(both[1:], one)


# ------------------------------------------------------------------------------------------ classes


@pytest.mark.parametrize(
    "anchor, expected", [("", ["4"]), ("next", ["4"]), ("0", ["0"]), ("random", ["4", "0", "1", "2"])]
)
def test_anchors_of_a_class(family_folder, anchor, expected):
    family = family_of(load_family(family_folder("classes")))
    pairs = family.pairs(["3"], anchor, None, 0)
    assert {p.prompt for p in pairs} == {"3"} and [p.anchor for p in pairs] == expected
    assert family.pairs(["4"], "next", None, 0)[0].anchor == "0"
    assert [p.anchor for p in family.pairs(["3", "4"], "next", None, 0)] == ["0", "0"]
    assert set(family.keep(["3", "4"], None, 6, 0)) == {"0", "1", "2"}
    with pytest.raises(ValueError, match="the same"):
        family.pairs(["3"], "3", None, 0)


def test_names_and_the_empty_class(family_folder, tmp_path):
    pipe, names = load_family(family_folder("classes")), ["plane", "car", "bird", "cat"]
    (tmp_path / "vocabulary.json").write_text(json.dumps({"subjects": names, "styles": []}))
    pipe.register_to_config(_name_or_path=str(tmp_path))
    family = family_of(pipe)
    assert family.empty == ""
    assert family.encode(["cat", "1", ""])["label"].tolist() == [3, 1, CLASSES - 1]
    assert [(p.prompt, p.anchor) for p in family.pairs(["cat"], "", None, 0)] == [("cat", "")]
    assert family.pairs(["3"], "next", None, 0)[0].anchor == "plane"


def test_guidance_leads_away_from_the_empty_class(family_folder, tmp_path):
    pipe = load_family(family_folder("classes"))
    plain = draw(pipe, ["3"], [5], steps=2)
    assert torch.equal(draw(pipe, ["3"], [5], steps=2, guidance=7.0), plain)  # five classes, none of them empty
    (tmp_path / "vocabulary.json").write_text(json.dumps({"subjects": ["a", "b", "c", "d"], "styles": []}))
    pipe.register_to_config(_name_or_path=str(tmp_path))
    torch.testing.assert_close(draw(pipe, ["d"], [5], steps=2, guidance=1.0), plain)
    torch.testing.assert_close(draw(pipe, ["d"], [5], steps=2, guidance=0.0), plain)  # as in diffusers' pipelines
    x, last = randn(1, 3, SIZE, SIZE, seed=5), len(pipe.scheduler.alphas_cumprod) - 1
    with torch.no_grad():
        own, empty = (pipe.unet(x, last, class_labels=torch.tensor([k])).sample for k in (3, CLASSES - 1))
    signal = pipe.scheduler.alphas_cumprod[last]
    clean = (x - (1 - signal).sqrt() * (empty + 2.5 * (own - empty))) / signal.sqrt()  # one DDIM step
    expected = (clean / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(draw(pipe, ["d"], [5], steps=1, guidance=2.5), expected, rtol=1e-4, atol=1e-4)
    assert family_of(pipe).guided


def test_a_model_without_an_empty_prompt_has_no_negative_objective(family_folder, tmp_path):
    with pytest.raises(ValueError, match="empty prompt"):
        erase(load_family(family_folder("classes")), "3", tmp_path / "out", **QUICK, objective="negative")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_step_is_the_schedulers(name, family_folder):
    family = family_of(load_family(family_folder(name)))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    x, v = randn(2, 4, SIZE, SIZE), randn(2, 4, SIZE, SIZE, seed=2)
    ends = [*scheduler.timesteps[1:], torch.tensor(-1.0)]
    for t, s in zip(scheduler.timesteps, ends):
        expected = scheduler.step(v, t, x).prev_sample
        torch.testing.assert_close(family.step(x, v, t.repeat(2), s.repeat(2)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FLOWS)
def test_flow_noise_and_truth(name, family_folder):
    family = family_of(load_family(family_folder(name)))
    clean, noise, t = randn(3, 4, SIZE, SIZE), randn(3, 4, SIZE, SIZE, seed=2), torch.tensor([10.0, 500.0, 1000.0])
    x, v = family.noised(clean, noise, t), family.truth(clean, noise, t)
    torch.testing.assert_close(x[2], noise[2])
    torch.testing.assert_close(family.step(x, v, t, torch.full((3,), -1.0)), clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_flow_times_are_shifted_as_the_samplers(name, family_folder):
    pipe = load_family(family_folder(name))
    family, u, config = family_of(pipe), torch.tensor([0.25, 0.5, 1.0]), pipe.scheduler.config
    options = {}
    if config.use_dynamic_shifting:
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        options = {"mu": config.base_shift + slope * ((SIZE // 2) ** 2 - config.base_image_seq_len)}
    pipe.scheduler.set_timesteps(sigmas=u.flip(0).tolist(), **options)
    torch.testing.assert_close(family.times(u), pipe.scheduler.timesteps.flip(0), rtol=1e-4, atol=1e-2)


def test_flux_is_led_by_its_own_prediction(family_folder):
    family = family_of(load_family(family_folder("flux")))
    words, generator = Contexts(family, [PROMPT], 2.0), torch.Generator().manual_seed(0)
    assert words.values["guidance"].tolist() == [2.0, 2.0]
    first, second = trajectory(family, words, [PROMPT], [""], [True], 2, 2.0, generator)
    torch.testing.assert_close(second["x"], family.step(first["x"], first["concept"], first["t"], second["t"]))


# ------------------------------------------------------------------------------------------- refusals


def test_unknown_pipelines_are_told_the_known_ones(family_folder):
    with pytest.raises(ValueError, match="object is not a family.*XL.*3/3.5.*FLUX.*PixArt.*class-conditional"):
        family_of(object())


def test_schedules_and_models_that_do_not_fit(family_folder):
    pipe = load_family(family_folder("sd3"))
    pipe.scheduler = load_family(family_folder("sdxl")).scheduler
    with pytest.raises(ValueError, match="DDIMScheduler: StableDiffusion3Pipeline needs flow matching"):
        family_of(pipe)
    pipe = load_family(family_folder("classes"))
    pipe.unet.class_embedding = None
    with pytest.raises(ValueError, match="no class embedding"):
        family_of(pipe)
