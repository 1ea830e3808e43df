"""`semu erase` on every family, single files, the text encoder, and what is chosen for little memory."""

import json
import shutil

import pytest
import torch
from tiny import QUICK, flags
from tiny_families import FAMILIES, SIZE, load_family

import semu_diffusion.diffusion as diffusion
from semu_diffusion import erase, load_adapter, load_pipeline
from semu_diffusion.adapter import SemuConfig, find_layers
from semu_diffusion.adapter.weights import LORA, semu_layers
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.config import TARGETS
from semu_diffusion.diffusion.families import family_of
from semu_diffusion.diffusion.pipeline import denoiser
from semu_diffusion.diffusion.single_file import save_single_file

SHORT = {**QUICK, "target_modules": "all", "latents": 4, "keep_latents": 4, "sampler_steps": 2, "steps": 3,
         "max_rank": 4, "lr": 0.1}  # fmt: skip
WITH_LORA = ("sd1", "sd2", "sdxl", "sd3", "flux")


@pytest.fixture
def small_semu(semu, monkeypatch):
    """Runs the entry point with arguments, at the size of the small transformers: status and what it printed."""
    load = diffusion.load_pipeline

    def small(*arguments, **options):
        pipe = load(*arguments, **options)
        if hasattr(pipe, "default_sample_size"):
            pipe.default_sample_size = SIZE  # FLUX has it nowhere in its configuration
        return pipe

    monkeypatch.setattr(diffusion, "load_pipeline", small)

    def run(*arguments):
        status, out, err = semu(*arguments)
        return status, out + err

    return run


@torch.no_grad()
def predict(pipe):
    """The prediction for two prompts at two times."""
    family = family_of(pipe)
    x = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1))
    prompts = ["3", "1"] if family.empty is None else ["a picture of a cigarette", ""]
    return family.predict(x, family.times(torch.tensor([0.2, 0.9])), family.encode(prompts))


@pytest.mark.parametrize("name", FAMILIES)
def test_erase_through_the_shell(name, family_folder, small_semu, tmp_path):
    concept, out = "3" if name == "classes" else "cigarette", tmp_path / "out"
    command = ["erase", "--model", family_folder(name), "--output", out, "--concept", concept, "--no-evaluate"]
    status, said = small_semu(*command, "--quiet", "--device", "cpu", *flags(**SHORT))
    assert status == 0, said
    assert json.loads((out / "results.json").read_text())["training"]["steps"] == 3
    pipe = load_family(family_folder(name))
    base = predict(pipe)
    load_adapter(pipe, out)
    erased = predict(pipe)
    assert erased.isfinite().all() and (erased - base).abs().max() > 1e-4
    assert (out / LORA).is_file() == (name in WITH_LORA)
    if name in WITH_LORA:
        plain = load_family(family_folder(name))
        plain.load_lora_weights(out, weight_name=LORA)
        assert (predict(plain) - erased).abs().max() < 1e-5 + 2e-3 * (erased - base).abs().max()  # fp16


def test_cross_and_self_attention_are_all_attention(family_folder):
    for name in FAMILIES:
        model = denoiser(load_family(family_folder(name)))
        found = {p: set(find_layers(model, SemuConfig(target_modules=r))) for p, r in TARGETS.items()}
        assert found["self-attention"] and found["self-attention"] <= found["attention"], name
        if name != "sd3":  # its second attention is the pictures' own, under the name that elsewhere is cross-attention
            assert found["cross-attention"] | found["self-attention"] == found["attention"], name
            assert not found["cross-attention"] & found["self-attention"], name


# ------------------------------------------------------------------------------------------ single files


def test_a_single_file_is_erased_from(family_folder, small_semu, tmp_path):
    file = save_single_file(load_family(family_folder("sd1")), tmp_path / "civitai.safetensors")
    shutil.copytree(family_folder("sd1"), tmp_path / "civitai", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.testing.assert_close(predict(load_pipeline(str(file), "cpu")), predict(load_family(family_folder("sd1"))))
    options = flags(**{**SHORT, "steps": 1})
    command = ["erase", "--model", file, "--output", tmp_path / "out", "--concept", "cigarette", "--no-evaluate"]
    status, said = small_semu(*command, "--quiet", *options)
    assert status == 0, said
    assert (tmp_path / "out" / LORA).is_file()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.safetensors", None, "there is no such file"),
        ("old.ckpt", b"x", "convert it to .safetensors"),
        ("broken.safetensors", b"not a file of this kind", "cannot load .* as a single-file checkpoint"),
    ],
)
def test_a_single_file_that_cannot_be(name, content, message, family_folder, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
        shutil.copytree(family_folder("sd1"), (tmp_path / name).with_suffix(""))
    with pytest.raises(ValueError, match=message) as error:
        load_pipeline(str(tmp_path / name))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------- text encoder


def test_the_text_encoder_can_carry_the_adapter(family_folder, tmp_path):
    pipe = load_family(family_folder("sd1"))
    base, unet = predict(pipe), {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    erasure = erase(pipe, "cigarette", tmp_path / "out", **{**SHORT, "train": "text_encoder", "steps": 8})
    assert not semu_layers(pipe.unet) and semu_layers(pipe.text_encoder)
    assert all(torch.equal(v, unet[k]) for k, v in pipe.unet.state_dict().items())
    assert not any(p.requires_grad for p in (*pipe.unet.parameters(), *pipe.text_encoder.parameters()))
    losses = [row["forget"] for row in erasure.progress.history]
    assert min(losses[4:]) < losses[0]
    assert (tmp_path / "out" / "text_encoder" / "adapter_model.safetensors").is_file()
    again = load_family(family_folder("sd1"))
    load_adapter(again, tmp_path / "out")
    assert torch.equal(predict(again), predict(pipe))
    assert (predict(again) - base).abs().max() > 1e-3


def test_only_text_encoders_that_fit(family_folder):
    with pytest.raises(ValueError, match="only the text encoder of Stable Diffusion 1.x/2.x can be trained, not that"):
        erase(load_family(family_folder("sd3")), "cigarette", **{**SHORT, "train": "text_encoder"})
    with pytest.raises(ValueError, match="train must be denoiser or text_encoder"):
        EraseConfig(concept="x", train="vae")


# ---------------------------------------------------------------------------------------------- memory


def test_sketches_lead_to_nearly_the_same_bases(family_folder):
    wide = {**SHORT, "steps": 1, "geometry": "euclidean"}
    whole, sketched = (erase(load_family(family_folder("sd1")), "cigarette", **wide, sketch=s) for s in (None, 12))
    energy = [result.facts["energy"] for result in (whole, sketched)]
    assert energy[0].keys() == energy[1].keys()
    assert sum(abs(energy[0][k] - energy[1][k]) for k in energy[0]) / len(energy[0]) < 0.1


def test_max_memory_says_what_it_chose(family_folder, small_semu, tmp_path):
    command = ["erase", "--model", family_folder("sd1"), "--output", tmp_path / "out", "--concept", "cigarette"]
    quick = ["--no-evaluate", "--quiet", *flags(**{**SHORT, "steps": 1})]
    status, said = small_semu(*command, *quick, "--max-memory", 1)
    assert status == 0, said
    assert "of 1 GB" in json.loads((tmp_path / "out" / "results.json").read_text())["training"]["memory"]
    status, said = small_semu(*command, *quick, "--max-memory", 0.001, "--overwrite")
    assert status == 2 and "max-memory 0.001 GB is too little" in said
