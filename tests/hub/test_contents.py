"""`semu inspect`: the config that the loader takes, the header that others read, nothing that steers the terminal."""

import json

import pytest
from adapters import put_on
from safetensors.torch import load_file
from tiny_families import build_family, load_family

from semu_diffusion import load_adapter, load_pipeline
from semu_diffusion.adapter.files import save_atomic
from semu_diffusion.adapter.weights import CONFIG, WEIGHTS
from semu_diffusion.diffusion.export import save_loras
from semu_diffusion.diffusion.naming import OLD_KOHYA
from semu_diffusion.diffusion.pipeline import save_adapters
from semu_diffusion.diffusion.results import remove_reports
from semu_diffusion.hub.card import write_card
from semu_diffusion.hub.contents import read_contents

FACTS = {
    "base_model": "stabilityai/stable-diffusion-xl-base-1.0", "concept": ["Van Gogh style"], "anchor": "a painting",
    "steps": 100, "seed": 3,
}  # fmt: skip


@pytest.fixture
def adapter(tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    return save_adapters(pipe, tmp_path / "adapter", {"concept": ["cat"], "base_model": "someone/tiny"})


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    """The folder of a small SDXL and that of an adapter for it."""
    root = tmp_path_factory.mktemp("sdxl")
    pipe = load_family(build_family("sdxl", root / "base"))
    for part in (pipe.unet, pipe.text_encoder_2):
        put_on(part)
    return root / "base", save_adapters(pipe, root / "adapter", FACTS)


def rewrite_config(folder, **changes):
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, **changes}))


# ------------------------------------------------------------------------------------- the same config


def test_a_folder_is_shown_as_it_is_loaded(adapter, tiny_model, semu):
    rewrite_config(adapter, about={"concept": ["dog"]}, gamma=0.5)
    loaded = load_adapter(load_pipeline(str(tiny_model), "cpu"), adapter)
    shown = read_contents(adapter)
    assert shown.about["concept"] == loaded.about["concept"] == ["dog"] and shown.about["gamma"] == 0.5
    status, out, err = semu("inspect", adapter)
    assert status == 0 and "dog" in out and "cat" not in out
    said = f"semu: {WEIGHTS} says something else in its header than {CONFIG} beside it, which counts"
    assert err.strip().splitlines()[-1] == said


def test_a_file_is_shown_as_it_is_loaded(adapter, tiny_model):
    rewrite_config(adapter, about={"concept": ["dog"]})
    loaded = load_adapter(load_pipeline(str(tiny_model), "cpu"), adapter / WEIGHTS)
    shown = read_contents(adapter / WEIGHTS)
    assert shown.about["concept"] == loaded.about["concept"] == ["cat"] and shown.notes == []


def test_what_cannot_be_loaded_is_not_shown_either(adapter, tiny_model):
    save_atomic(load_file(adapter / WEIGHTS), adapter / WEIGHTS)  # without a config in its header
    assert read_contents(adapter).about["concept"] == ["cat"]
    for path in (adapter / WEIGHTS, adapter):
        for read in (read_contents, lambda p: load_adapter(load_pipeline(str(tiny_model), "cpu"), p)):
            with pytest.raises(ValueError, match="has no SEMU config in its header"):
                read(path)
        (adapter / CONFIG).unlink(missing_ok=True)


def test_a_config_as_it_should_be_has_no_note(adapter, semu):
    assert read_contents(adapter).notes == [] and semu("inspect", adapter)[2] == ""


# ---------------------------------------------------------------------------------------------- headers


def test_an_sdxl_adapter_as_a_new_user_exports_and_looks_at_it(sdxl, tmp_path, semu):
    base, adapter = sdxl
    export = ["export", adapter, "--model", base, "--to", "kohya"]
    status, said, err = semu(*export, "--output", tmp_path / "out")
    assert status == 0 and "leaves out 6 layers" in err and "% of the update's energy" in err
    assert said.strip() == str(
        tmp_path / "out" / "stable-diffusion-xl-base-1.0_without_Van_Gogh_style_kohya.safetensors"
    )
    status, out, _ = semu("inspect", said.strip())
    flat = "".join(out.split())
    for field, value in {
        "ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False", "ss_network_module": "networks.lora",
        "ss_output_name": "stable-diffusion-xl-base-1.0_without_Van_Gogh_style_kohya",
        "ss_sd_model_name": FACTS["base_model"], "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": f"{FACTS['base_model']} without Van Gogh style", "modelspec.trigger_phrase": "(none)",
        "sshs_model_hash": "", "sshs_legacy_hash": "", "modelspec.hash_sha256": "0x", "concept": "Van Gogh style",
        "anchor": "a painting", "seed": "3",
    }.items():  # fmt: skip
        assert "".join(f"{field}{value}".split()) in flat, field
    digest = json.loads(semu("inspect", said.strip(), "--json")[1])["header"]["sshs_model_hash"]
    assert len(digest) == 64 and digest in flat  # to its end
    status, _, err = semu(*export, "--output", tmp_path / "all", "--all-layers", "--precision", "fp32")
    assert status == 0 and err == ""
    status, _, err = semu(*export, "--output", tmp_path / "bad", "--precision", "half")
    assert status == 2 and err.strip() == "semu: precision must be one of fp32, fp16, bf16, got 'half'"


def test_facts_of_a_lora_file_are_those_of_the_adapter(sdxl, tmp_path, semu):
    base, adapter = sdxl
    for form in ("kohya", "diffusers"):
        _, said, _ = semu("export", adapter, "--model", base, "--to", form, "--output", tmp_path / form)
        found = read_contents(said.strip())
        assert {key: found.about[key] for key in FACTS} == FACTS
        assert found.format == form


def test_the_card_names_the_file_and_what_it_lacks(sdxl, tmp_path):
    base, adapter = sdxl
    pipe = load_family(base)
    load_adapter(pipe, adapter)
    save_adapters(pipe, tmp_path, FACTS)
    save_loras(pipe, tmp_path, lambda text: None)
    write_card(tmp_path, {"training": {}})
    card = (tmp_path / "README.md").read_text()
    assert "`stable-diffusion-xl-base-1.0_without_Van_Gogh_style_kohya.safetensors` into their folder" in card
    assert "6 layers outside of the model's blocks" in card


def test_kohya_files_of_an_earlier_erasure_go_and_those_of_others_stay(sdxl, tmp_path, semu):
    base, adapter = sdxl
    semu("export", adapter, "--model", base, "--to", "kohya", "--output", tmp_path)
    ours = next(tmp_path.glob("*_kohya.safetensors"))
    for name in (OLD_KOHYA, "somebody's_kohya.safetensors"):
        save_atomic(load_file(ours), tmp_path / name)
    remove_reports(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".semu"] == ["somebody's_kohya.safetensors"]


# ------------------------------------------------------------------------------------------- the terminal

STEER = "\x1b[2J\x1b]0;title\x07\u202e"


def steers(text):
    return [c for c in text if not c.isprintable() and c not in "\n\t"]


def test_names_and_headers_of_strangers_cannot_steer_the_terminal(tmp_path, tiny_model, semu):
    import torch

    name = f"down_blocks.0.{STEER}"
    key = f"lora_unet_{name}"
    state = {f"{key}.lora_down.weight": torch.ones(1, 2), f"{key}.lora_up.weight": torch.ones(2, 1)}
    save_atomic(state, tmp_path / "x.safetensors", {f"ss_{STEER}": STEER, "semu.base_model": STEER})
    status, out, err = semu("inspect", tmp_path / "x.safetensors")
    assert status == 0 and steers(out + err) == []
    config = {"peft_type": "SEMU", "ranks": {name: 1}, "about": {"base_model": STEER}}
    save_atomic(
        {"base_model.model.x.semu_R": torch.ones(1, 1)}, tmp_path / WEIGHTS, {"semu_config": json.dumps(config)}
    )
    for words in (["inspect", tmp_path / WEIGHTS], ["generate", tmp_path / WEIGHTS, "--model", tiny_model,
                                                    "--prompt", "a", "--output", tmp_path / "x.png"]):  # fmt: skip
        _, out, err = semu(*words)
        assert steers(out + err) == []
    assert err.startswith("semu: ") and "is for another model" in err
