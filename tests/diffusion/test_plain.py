"""The pipeline made plain: what is put on it changes nothing that is measured or learned, and is there again after."""

import gc
import os
import warnings

import accelerate
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import QUICK
from torch import nn

from semu_diffusion import draw, erase, load_pipeline
from semu_diffusion.adapter import SemuConfig
from semu_diffusion.adapter.layer import SemuLayer
from semu_diffusion.adapter.weights import inject, load_adapter, save_adapter, semu_layers
from semu_diffusion.attacks.target import Target
from semu_diffusion.diffusion.families import guided
from semu_diffusion.diffusion.multi_adapter import load_adapters, weights_of
from semu_diffusion.diffusion.pipeline import load_adapter as load_onto
from semu_diffusion.diffusion.pipeline import set_scale, switched_off
from semu_diffusion.diffusion.plain import offloaded, plain
from semu_diffusion.diffusion.states import Contexts, trajectory
from semu_diffusion.evaluation.suites.run import EvalConfig, run_suite

PROMPTS = ["a picture of a cigarette", "a dog"]


@pytest.fixture
def pipe(tiny_model):
    return load_pipeline(str(tiny_model), "cpu")


@pytest.fixture(scope="module")
def base(tiny_model):
    return pictures(load_pipeline(str(tiny_model), "cpu"))


def pictures(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw(pipe, PROMPTS, [0, 1], steps=2)


class Checker(nn.Module):
    """A safety checker that flags everything."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, clip_input, images):
        return 0 * images, [True] * len(images)


class Features(dict):
    """What a feature extractor gives, for a checker that does not look at it."""

    pixel_values = torch.zeros(1)

    def to(self, device):
        return self


def put_checker(pipe):
    pipe.safety_checker = Checker()
    pipe.feature_extractor = lambda images, return_tensors: Features()


def put_lora(model, name="style"):
    targets = ["to_q", "to_v", "q_proj", "conv1", "conv2"]
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), name)


def put_image_prompt(pipe):
    """As `load_ip_adapter` leaves the UNet, which then wants image embeddings."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    unet = pipe.unet
    wide = {"hidden_size": 16, "cross_attention_dim": 32}
    unet.set_attn_processor({n: IPAdapterAttnProcessor2_0(**wide) if "attn2" in n else AttnProcessor2_0()
                             for n in unet.attn_processors})  # fmt: skip
    unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = nn.Linear(2, 2), "ip_image_proj"


PUT = {
    "safety checker": put_checker,
    "adapter style on the unet": lambda pipe: put_lora(pipe.unet),
    "adapter style on the text_encoder": lambda pipe: put_lora(pipe.text_encoder),
    "IP-Adapter on the unet": put_image_prompt,
    "FreeU": lambda pipe: pipe.enable_freeu(s1=0.2, s2=0.1, b1=2.0, b2=2.5),
}


@pytest.mark.parametrize("what", PUT)
@pytest.mark.parametrize("fails", [False, True])
def test_taken_off_and_put_back(pipe, base, what, fails):
    PUT[what](pipe)
    changed = None if what.startswith("IP") else pictures(pipe)
    before = {"config": dict(pipe.config), "kind": pipe.unet.config.encoder_hid_dim_type,
              "processors": dict(pipe.unet.attn_processors), "projection": pipe.unet.encoder_hid_proj,
              "checker": pipe.safety_checker}  # fmt: skip
    trained = {n for part in (pipe.unet, pipe.text_encoder) for n, p in part.named_parameters() if p.requires_grad}
    try:
        with plain(pipe) as off:
            assert off == [what]
            assert torch.equal(pictures(pipe), base)
            if fails:
                raise KeyError("of somebody else")
    except KeyError:
        assert fails
    if changed is None:
        with pytest.raises(Exception):  # noqa: B017 - diffusers wants the picture again
            pictures(pipe)
    else:
        assert not torch.equal(changed, base) and torch.equal(pictures(pipe), changed)
    assert before == {"config": dict(pipe.config), "kind": pipe.unet.config.encoder_hid_dim_type,
                      "processors": dict(pipe.unet.attn_processors), "projection": pipe.unet.encoder_hid_proj,
                      "checker": pipe.safety_checker}  # fmt: skip
    assert trained == {n for m in (pipe.unet, pipe.text_encoder) for n, p in m.named_parameters() if p.requires_grad}


def test_all_at_once_and_nothing(pipe, base):
    with plain(pipe) as off:
        assert off == [] and torch.equal(pictures(pipe), base)
    for put in PUT.values():
        put(pipe)
    with plain(pipe) as off:
        assert sorted(off) == sorted(PUT) and torch.equal(pictures(pipe), base)


def test_what_was_off_stays_off(pipe, base):
    put_lora(pipe.unet)
    pipe.unet.disable_adapters()
    with plain(pipe) as off:
        assert off == []
        with switched_off(pipe):
            assert torch.equal(pictures(pipe), base)
    assert torch.equal(pictures(pipe), base)
    pipe.unet.enable_adapters()
    assert not torch.equal(pictures(pipe), base)


def test_caches_of_the_denoiser(family_folder):
    from diffusers import FirstBlockCacheConfig
    from tiny_families import load_family

    pipe = load_family(family_folder("flux"))
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with plain(pipe) as off:
        assert off == ["cache (FirstBlockCache)"] and not pipe.transformer.is_cache_enabled
    assert pipe.transformer.is_cache_enabled


def test_a_fused_lora_is_refused(pipe):
    put_lora(pipe.unet)
    pipe.fuse_lora(components=["unet"])
    fused = pictures(pipe)
    for refused in (
        lambda: erase(pipe, "cigarette", **QUICK),
        lambda: inject(pipe.unet, SemuConfig(ranks={"conv_in": 1})),
    ):
        with pytest.raises(ValueError, match="fused into the model's weights; take it out first"):
            refused()
    assert torch.equal(pictures(pipe), fused)


# --------------------------------------------------------------------------------------------- erasing


def test_erasing_is_from_the_model_itself(pipe, tiny_model):
    """With a LoRA, a checker and more on it, the same adapter to the bit as without; and all is there afterwards."""
    options = {**QUICK, "steps": 2}
    alone = erase(str(tiny_model), "cigarette", device="cpu", **options)
    for what, put in PUT.items():
        if not what.startswith("IP"):
            put(pipe)
    with pytest.warns(UserWarning, match="adapter style on the unet"):
        result = erase(pipe, "cigarette", **options)
    assert result.progress.history[0]["keep"] < 1e-6  # the adapter is still the model itself at the first step
    assert sorted(result.facts["taken_off"]) == sorted(w for w in PUT if not w.startswith("IP"))
    ours, theirs = semu_layers(result.pipe.unet), semu_layers(alone.pipe.unet)
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        for part in "URV":
            found, expected = (getattr(x, f"semu_{part}")["default"] for x in (layer, theirs[name]))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert layer.active_adapters == ["default"] and not layer.disable_adapters
    assert "style" in pipe.get_active_adapters() and pipe.safety_checker is not None
    pipe.safety_checker = None  # else all that follows is black
    with_both = pictures(pipe)
    with switched_off(pipe):
        off = pictures(pipe)
    for layer in ours.values():
        layer.set_adapter([])
    assert not torch.equal(pictures(pipe), off) and not torch.equal(pictures(pipe), with_both)


def test_erasing_under_an_image_prompt(pipe):
    put_image_prompt(pipe)
    before = dict(pipe.unet.attn_processors)
    with pytest.warns(UserWarning, match="IP-Adapter on the unet"):
        erase(pipe, "cigarette", **{**QUICK, "steps": 1})
    assert pipe.unet.attn_processors == before and not any("processor" in name for name in semu_layers(pipe.unet))


def random_adapter(folder, name, seed, targets=r".*attn2.to_.*"):
    """A folder with a random adapter for the tiny UNet."""
    from adapters import put_on

    pipe = load_pipeline(str(folder), "cpu")
    put_on(pipe.unet, seed, targets)
    return pipe


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    place = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two")):
        save_adapter(random_adapter(tiny_model, name, seed).unet, place / name)
    return place


def on(pipe):
    """What computes, by layer."""
    layers = {n: m for n, m in pipe.unet.named_modules() if isinstance(m, BaseTunerLayer)}
    return {name: [] if m.disable_adapters else sorted(m.active_adapters) for name, m in layers.items()}


@pytest.mark.parametrize("first", [True, False], ids=["lora first", "lora last"])
def test_loading_leaves_a_lora_on(pipe, folders, first):
    if first:
        put_lora(pipe.unet)
        before = on(pipe)
        load_onto(pipe, folders / "one", "semu")
    else:
        load_onto(pipe, folders / "one", "semu")
        before = on(pipe)
        put_lora(pipe.unet)
        pipe.set_adapters(["semu", "style"])  # as README and card say: diffusers switches the others off
    now = {name: found for name, found in on(pipe).items()}
    assert all("style" in found or "semu" in found for found in now.values()) and len(now) > len(before)
    assert {n for found in now.values() for n in found} == {"style", "semu"}
    both = pictures(pipe)
    pipe.set_adapters("style")
    assert not torch.equal(pictures(pipe), both)


def test_a_second_adapter_leaves_the_first_on_and_a_strength_is_its_own(pipe, folders):
    load_onto(pipe, folders / "one", "one", scale=0.5)
    load_adapters(pipe, {"two": folders / "two"}, [0.25])
    assert weights_of(pipe) == {"one": 0.5, "two": 0.25}
    set_scale(pipe, 0.75, "one")
    assert weights_of(pipe) == {"one": 0.75, "two": 0.25}
    assert not any(p.requires_grad for n, p in pipe.unet.named_parameters() if "semu_" in n)


def test_erasing_leaves_loaded_adapters_on_and_learns_without_them(pipe, folders, tiny_model):
    alone = erase(str(tiny_model), "cigarette", device="cpu", **QUICK)
    load_onto(pipe, folders / "one", "one", scale=0.5)
    with pytest.warns(UserWarning, match="adapter one on the unet"):
        erase(pipe, "cigarette", **QUICK)
    assert weights_of(pipe) == {"one": 0.5, "default": 1.0}
    for name, layer in semu_layers(alone.pipe.unet).items():
        found = semu_layers(pipe.unet)[name].semu_R["default"]
        torch.testing.assert_close(found, layer.semu_R["default"], rtol=0, atol=1e-5)


def test_loading_and_unloading_leave_no_memory_and_no_open_file(pipe, folders):
    counts = []
    for _ in range(4):
        load_onto(pipe, folders / "one")
        pipe.unet.unload_lora()
        gc.collect()
        tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
        counts.append((tensors, len(os.listdir("/proc/self/fd"))))
    assert counts[1:] == counts[1:2] * 3
    assert not any("semu" in name or "base_layer" in name for name in pipe.unet.state_dict())


def test_a_lora_in_training_stays_trainable(pipe, folders):
    put_lora(pipe.unet)
    trained = {n for n, p in pipe.unet.named_parameters() if p.requires_grad and "lora" in n}
    load_adapter(pipe.unet, folders / "one", "semu")
    assert trained and trained == {n.replace(".base_layer.lora", ".lora") for n, p in pipe.unet.named_parameters()
                                   if p.requires_grad and "lora" in n}  # fmt: skip


# --------------------------------------------------------------------------------------------- offload


def offload(pipe):
    """As `enable_sequential_cpu_offload`, which wants a GPU: each module's weights come before its forward."""
    for model in (pipe.unet, pipe.text_encoder, pipe.vae):
        accelerate.cpu_offload(model, "cpu", offload_buffers=len(model._parameters) > 0)


@pytest.mark.parametrize("first", ["hooks", "adapter"])
def test_sequential_offload(pipe, folders, tiny_model, first):
    plain_pipe = load_pipeline(str(tiny_model), "cpu")
    load_onto(plain_pipe, folders / "one")
    steps = [lambda: offload(pipe), lambda: load_onto(pipe, folders / "one")]
    for step in steps if first == "hooks" else steps[::-1]:
        step()
    assert offloaded(pipe.unet) == "sequential" and pipe.unet.conv_in.weight.is_meta
    assert torch.equal(pictures(pipe), pictures(plain_pipe))
    layer = next(iter(semu_layers(pipe.unet).values()))
    with pytest.raises(ValueError, match="the weights are offloaded; take the hooks off first"):
        layer.merge()


def test_erasing_under_sequential_offload(pipe, tiny_model):
    alone = erase(str(tiny_model), "cigarette", device="cpu", **QUICK)
    offload(pipe)
    erase(pipe, "cigarette", **QUICK)  # the hooks stay: what is offloaded may not fit at once
    assert pipe.unet.conv_in.weight.is_meta and offloaded(pipe.text_encoder) == "sequential"
    assert torch.equal(pictures(pipe), pictures(alone.pipe))


def test_a_model_on_several_devices_is_refused(pipe):
    pipe.hf_device_map = {"unet": 0, "vae": 1}
    with pytest.raises(ValueError, match="spread over devices"), plain(pipe, learning=True):
        pass


def test_values_that_are_nowhere_are_refused(pipe, folders):
    load_onto(pipe, folders / "one")
    layer = next(m for m in pipe.unet.modules() if isinstance(m, SemuLayer))
    layer.semu_R["default"] = nn.Parameter(torch.empty(1, 1, device="meta"))
    with pytest.raises(ValueError, match="meta device"):
        layer(torch.zeros(1, layer.in_features))


# --------------------------------------------------------------------------------- evaluation and attacks


def test_an_evaluation_is_of_the_adapter_alone(pipe, folders, tmp_path, monkeypatch):
    from semu_diffusion.evaluation.suites import run

    (tmp_path / "p.csv").write_text("prompt,label\na cigarette,cigarette\na dog,dog\n")
    monkeypatch.setattr(run, "judges_of", lambda *_: [])
    monkeypatch.setattr(run, "lpips_of", lambda *_: None)
    monkeypatch.setattr(run, "rows", lambda *_: {"base": {}, "erased": {}})
    config = EvalConfig("custom", ["cigarette"], prompts=str(tmp_path / "p.csv"), steps=2, guidance=3.0)
    load_onto(pipe, folders / "one")
    report, _ = run_suite(pipe, config, tmp_path / "alone", {"sha256": "x", "scale": 1.0})
    assert report["protocol"]["taken_off"] == []
    for what, put in PUT.items():
        if not what.startswith("IP"):
            put(pipe)
    pipe.set_adapters(["default", "style"])
    report, _ = run_suite(pipe, config, tmp_path / "full", {"sha256": "x", "scale": 1.0})
    assert len(report["protocol"]["taken_off"]) == 4
    for side in ("base", "erased"):
        files = sorted((tmp_path / "alone" / side).glob("*.png"))
        assert len(files) == 2
        assert all(f.read_bytes() == (tmp_path / "full" / side / f.name).read_bytes() for f in files)


def test_attacks_are_on_the_adapter_alone(pipe, folders):
    load_onto(pipe, folders / "one")
    alone = Target(pipe).draw_prompts(PROMPTS, [0, 1], 2, 3.0)
    put_checker(pipe)
    put_lora(pipe.unet)
    pipe.set_adapters(["default", "style"])
    target = Target(pipe)
    assert sorted(target.taken_off) == ["adapter style on the unet", "safety checker"]
    assert torch.equal(target.draw_prompts(PROMPTS, [0, 1], 2, 3.0), alone)
    assert pipe.safety_checker is not None and "style" in pipe.get_active_adapters()


def test_blackened_pictures_are_counted(pipe):
    put_checker(pipe)
    with pytest.warns(UserWarning, match="the safety checker blackened 2 of 2 pictures"):
        assert draw(pipe, PROMPTS, [0, 1], steps=1).max() == 0


# -------------------------------------------------------------------------------------------- guidance


def test_guidance_up_to_one_is_conditional(pipe):
    from semu_diffusion.diffusion.families import family_of

    family = family_of(pipe, "denoiser")
    contexts = Contexts(family, [*PROMPTS, ""])

    def path(guidance):
        args = (PROMPTS, ["", ""], [True, True], 3, guidance, torch.Generator().manual_seed(0))
        return torch.cat([record["x"] for record in trajectory(family, contexts, *args)])

    assert torch.equal(path(0.0), path(1.0)) and torch.equal(path(0.5), path(1.0))
    assert not torch.allclose(path(3.0), path(1.0))
    own, empty = torch.tensor([3.0]), torch.tensor([1.0])
    assert [guided(own, empty, g).item() for g in (0, 0.5, 1, 2, 7.5)] == [3, 3, 3, 5, 16]


@pytest.mark.parametrize("guidance", [0.0, 0.7, 1.0, 1.5, 3.0])
def test_our_guidance_is_that_of_the_pipeline(pipe, guidance):
    """One DDIM step from the same noise: diffusers' own pipeline at this guidance, and ours."""
    from semu_diffusion.diffusion.families import family_of

    family, x = family_of(pipe, "denoiser"), torch.randn(1, 4, 8, 8)
    pipe.scheduler.set_timesteps(1)
    latents = pipe(PROMPTS[0], latents=x, num_inference_steps=1, guidance_scale=guidance, output_type="latent").images
    t = pipe.scheduler.timesteps[:1]
    own, empty = (family.predict(x, t, family.encode([p])) for p in (PROMPTS[0], ""))
    stepped = pipe.scheduler.step(guided(own, empty, guidance), t[0], x).prev_sample
    torch.testing.assert_close(latents, stepped, rtol=0, atol=1e-5)
