"""What LoRA files say about themselves, how exact they are, what they lack, and what they are called."""

import hashlib
import itertools
import json
import stat
from io import BytesIO

import pytest
import torch
from adapters import outputs, put_on, same, truth
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save
from tiny_families import build_family, load_family

from semu_diffusion import load_adapter, load_pipeline
from semu_diffusion.adapter.weights import WEIGHTS, inject, semu_layers
from semu_diffusion.diffusion.export import export, rounding, save_loras
from semu_diffusion.diffusion.folders import save_folder
from semu_diffusion.diffusion.headers import data_hash, described, legacy_hash, resolution_of
from semu_diffusion.diffusion.kohya import energy, kohya_layers
from semu_diffusion.diffusion.naming import concept_names, kohya_file
from semu_diffusion.diffusion.narrow import narrowed
from semu_diffusion.diffusion.pipeline import save_adapters

FACTS = {"base_model": "someone/tiny-xl", "concept": ["Van Gogh style", "a dog"], "anchor": "a painting", "steps": 40,
         "seed": 3, "gamma": 0.9}  # fmt: skip


def header(file):
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def carrying(folder, facts=FACTS, parts=("unet", "text_encoder")):
    pipe = load_family(folder)
    for k, part in enumerate(parts):
        put_on(getattr(pipe, part), k)
        getattr(pipe, part).peft_config["default"].about = dict(facts)
    return pipe


@pytest.fixture(scope="module")
def sd1(tiny_model):
    return carrying(tiny_model)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return carrying(
        build_family("sdxl", tmp_path_factory.mktemp("sdxl")), parts=("unet", "text_encoder", "text_encoder_2")
    )


# ----------------------------------------------------------------------------------------------- header

# What somebody who looks at the file in A1111, Forge or on Civitai looks for.
FIELDS = {
    "ss_base_model_version", "ss_v2", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args",
    "ss_output_name", "ss_sd_model_name", "ss_training_comment", "ss_resolution", "ss_steps", "ss_seed",
    "sshs_model_hash", "sshs_legacy_hash", "modelspec.sai_model_spec", "modelspec.architecture",
    "modelspec.implementation", "modelspec.title", "modelspec.description", "modelspec.trigger_phrase",
    "modelspec.usage_hint", "modelspec.tags", "modelspec.resolution", "modelspec.prediction_type",
    "modelspec.hash_sha256", "semu.concept", "semu.anchor", "semu.base_model", "semu.steps", "semu.seed", "semu.gamma",
    "semu.precision", "semu.version",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_every_field_that_others_look_for(kind, request, tmp_path):
    file = export(request.getfixturevalue(kind), tmp_path, "kohya", warn=lambda text: None)
    found = header(file)
    assert set(found) == {"format", *FIELDS, "semu.left_out", "semu.left_out_energy"}
    version, architecture = {
        "sd1": ("sd_v1", "stable-diffusion-v1/lora"), "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    }[kind]  # fmt: skip
    assert found["ss_base_model_version"] == version and found["modelspec.architecture"] == architecture
    assert found["ss_output_name"] == file.stem == "tiny-xl_without_Van_Gogh_style_and_a_dog_kohya"
    assert found["modelspec.title"] == "someone/tiny-xl without Van Gogh style and a dog"
    assert json.loads(found["semu.concept"]) == FACTS["concept"] and found["semu.anchor"] == "a painting"
    assert found["ss_network_dim"] == "Dynamic" and found["ss_seed"] == "3"


def test_a_v_prediction_sd2_says_so(tmp_path):
    from semu_diffusion.diffusion.headers import KINDS, exact_kind

    v, epsilon = (load_family(build_family(name, tmp_path / name)) for name in ("sd2", "sd1"))
    assert KINDS[exact_kind(v, "sd2")][:2] == ("sd_v2_v", "stable-diffusion-v2-768-v")
    assert KINDS[exact_kind(epsilon, "sd2")][:2] == ("sd_v2", "stable-diffusion-v2-512")
    assert resolution_of(epsilon) == 16  # 8 latents of 2 pixels


def test_hashes_are_those_of_sd_scripts():
    """It saves the tensors with the ss_ fields alone, then hashes what follows the header, and 64 kB after 1 MB."""
    state = {f"layer {k}": torch.randn(500, 300) for k in range(3)}
    network = {"ss_network_dim": "4", "ss_v2": "False"}
    file = BytesIO(save(state, network))
    start = int.from_bytes(file.read(8), "little") + 8
    file.seek(start)
    assert data_hash(state) == hashlib.sha256(file.read()).hexdigest()
    file.seek(0x100000)
    assert legacy_hash(state, network) == hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_the_hash_in_the_header_is_that_of_the_file(sd1, tmp_path, form):
    file = export(sd1, tmp_path, form, warn=lambda text: None)
    whole, found = file.read_bytes(), header(file)
    digest = hashlib.sha256(whole[8 + int.from_bytes(whole[:8], "little") :]).hexdigest()
    assert found["modelspec.hash_sha256"] == f"0x{digest}"
    assert found.get("sshs_model_hash", digest) == digest


@pytest.mark.parametrize("form", ["kohya", "diffusers", "native"])
def test_equal_adapters_have_equal_files_that_all_may_read(sd1, tmp_path, form):
    files = []
    for name in ("one", "two"):
        export(sd1, tmp_path / name, form, warn=lambda text: None)
        files.append({f.name: f.read_bytes() for f in (tmp_path / name).iterdir() if f.is_file()})
    assert files[0] == files[1] and files[0]
    probe = tmp_path / "probe"
    probe.touch()
    modes = {stat.S_IMODE(f.stat().st_mode) for f in tmp_path.rglob("*") if f.is_file()}
    assert modes == {stat.S_IMODE(probe.stat().st_mode)}


def test_no_path_of_this_machine_is_in_a_header(tiny_model, tmp_path):
    facts = {"base_model": str(tiny_model), "concept": [str(tmp_path / "secret" / "prompts.txt")]}
    pipe = carrying(tiny_model, facts, ["unet"])
    for form in ("kohya", "diffusers"):
        said = json.dumps(header(export(pipe, tmp_path / form, form, warn=lambda text: None)))
        assert str(tiny_model.parent) not in said and "secret" not in said
        assert tiny_model.name in said and "prompts" in said


# ---------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
@pytest.mark.parametrize("precision, dtype, atol", [("fp32", "float32", 1e-5), ("fp16", "float16", 3e-3),
                                                    ("bf16", "bfloat16", 3e-2)])  # fmt: skip
def test_precision(sd1, tiny_model, tmp_path, form, precision, dtype, atol):
    file = export(sd1, tmp_path, form, precision=precision, everything=True)
    assert {str(v.dtype).removeprefix("torch.") for v in load_file(file).values()} == {dtype}
    plain = DiffusionPipeline.from_pretrained(tiny_model)
    plain.load_lora_weights(tmp_path, weight_name=file.name)
    same(outputs(plain), truth(sd1, tiny_model), atol)


def test_native_files_are_int8_by_default_others_fp16_and_exact_on_request(sd1, tiny_model, tmp_path):
    for form in ("kohya", "diffusers", "native"):
        file = export(sd1, tmp_path, form, warn=lambda text: None)
        parts = load_file(file / WEIGHTS if form == "native" else file)
        assert {v.dtype for k, v in parts.items() if not k.endswith("semu_R")} == {
            torch.int8 if form == "native" else torch.float16
        }
        assert {v.dtype for k, v in parts.items() if k.endswith("semu_R")} <= {torch.float32}
    export(sd1, tmp_path / "native", "native", precision="fp32")
    again = load_pipeline(str(tiny_model), "cpu")
    load_adapter(again, tmp_path / "native")
    found, expected = outputs(again), outputs(sd1)
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize("form, precision", [*itertools.product(["native", "diffusers"], ["fp32", "fp16", "bf16"]),
                                             ("native", "int8")])  # fmt: skip
def test_the_loss_that_is_told_is_that_of_the_file(sd1, tmp_path, form, precision):
    """Against the float64 products of what is read from the file."""
    file = export(sd1, tmp_path, form, precision=precision)
    parts, changed, whole = load_file(file / WEIGHTS if form == "native" else file), 0.0, 0.0
    for name, layer in semu_layers(sd1.unet).items():
        U, R, V = (getattr(layer, f"semu_{p}")["default"].double() for p in "URV")
        if form == "native":
            u, r, v = (parts[f"base_model.model.{name}.semu_{p}"].double() for p in "URV")
        else:
            v, u = (parts[f"unet.{name}.lora_{p}.weight"].double().flatten(1) for p in "AB")
            v, r = v.T, torch.eye(len(v)).double()
        changed += (u @ r @ v.T - U @ R @ V.T).square().sum()
        whole += (U @ R @ V.T).square().sum()
    expected = (changed / whole).sqrt().item()
    assert rounding(sd1, form, precision) == pytest.approx(expected, rel=0.05, abs=1e-6)
    assert expected < {"fp32": 1e-6, "fp16": 1e-3, "bf16": 1e-2, "int8": 0.05}[precision]
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, bf16, got 'int8'"):
        export(sd1, tmp_path / "x", "kohya", precision="int8")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", [1e-7, 1e-5, 1e-3, 1.0, 1e3])
def test_fp16_keeps_small_and_large_updates(size):
    """A = V^T and B = U R as they come would lose B below 6e-5."""
    A, B = torch.linalg.qr(torch.randn(300, 4)).Q.T, size * torch.randn(200, 4)
    narrow = [t.double() for t in narrowed(A, B, torch.float16)]
    expected = B.double() @ A.double()
    assert (narrow[1] @ narrow[0] - expected).norm() < 6e-4 * expected.norm()


def test_updates_too_large_for_fp16_are_refused():
    with pytest.raises(ValueError, match="too large for float16; use --precision fp32"):
        narrowed(torch.full((1, 3), 1e6), torch.full((3, 1), 1e6), torch.float16)
    assert not narrowed(torch.randn(1, 3), torch.zeros(3, 1), torch.float16)[1].any()


# -------------------------------------------------------------------------------------- what is left out


def test_layers_that_clients_drop_are_left_out_and_named(sdxl, tmp_path):
    said = []
    file = export(sdxl, tmp_path, "kohya", warn=said.append)
    left = json.loads(header(file)["semu.left_out"])
    assert {name.split(".")[0] for name in left} == {"conv_in", "conv_out", "time_embedding", "add_embedding"}
    total, outside = 0.0, 0.0
    for part in (sdxl.unet, sdxl.text_encoder, sdxl.text_encoder_2):
        for name, layer in semu_layers(part).items():
            share = layer.get_delta_weight("default").double().square().sum().item()
            total += share
            outside += share if name in left else 0.0
    assert float(header(file)["semu.left_out_energy"]) == pytest.approx(outside / total, abs=1e-4)
    assert len(said) == 1 and "leaves out 6 layers" in said[0] and f"{outside / total:.1%} of the update's" in said[0]
    everything = load_file(export(sdxl, tmp_path, "kohya", everything=True, warn=said.append))
    ours = {key.rsplit(".lora_", 1)[0] for key in everything if ".lora_down" in key}
    kept = {
        key.rsplit(".lora_", 1)[0]
        for key in load_file(export(sdxl, tmp_path, "kohya", warn=said.append))
        if ".lora_down" in key
    }
    assert {key.removeprefix("lora_unet_") for key in ours - kept} == {
        "input_blocks_0_0", "out_2", "time_embed_0", "time_embed_2", "label_emb_0_0", "label_emb_0_2",
    }  # fmt: skip


def test_energy_is_that_of_the_update():
    A, B = torch.randn(3, 4, 2, 2), torch.randn(5, 3, 1, 1)
    assert energy(A, B) == pytest.approx((B.flatten(1) @ A.flatten(1)).square().sum().item(), rel=1e-5)


def test_an_adapter_of_such_layers_alone(tiny_model, tmp_path):
    from semu_diffusion.adapter import SemuConfig

    pipe, said = load_pipeline(str(tiny_model), "cpu"), []
    inject(pipe.unet, SemuConfig(ranks={"conv_in": 2}))
    with pytest.raises(ValueError, match="only layers that kohya files leave out; use --all-layers"):
        export(pipe, tmp_path, "kohya")
    save_loras(pipe, tmp_path, said.append)
    assert [p.name for p in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert len(said) == 1 and said[0].startswith("no kohya file: ")
    assert list(kohya_layers(pipe, everything=True).factors) == ["lora_unet_conv_in"]


# --------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "about, name",
    [
        ({"base_model": "pictograms", "concept": ["cigarette"]}, "pictograms_without_cigarette"),
        ({"base_model": "/home/me/models/sd15", "concept": ["cat"]}, "sd15_without_cat"),
        ({"base_model": "/m/dream.v8.safetensors", "concept": ["cat"]}, "dream.v8_without_cat"),
        ({"base_model": "a/b-1.0", "concept": ["Van Gogh style"]}, "b-1.0_without_Van_Gogh_style"),
        ({"base_model": "m", "concept": ["/x/prompts.txt"], "before": ["dog"]}, "m_without_dog_and_prompts"),
        ({"base_model": "m", "concept": list("abcde")}, "m_without_a_and_b_and_c_and_2_more"),
        ({"base_model": "m", "concept": ["<lora:x:1>/../\x1b[2J"]}, "m_without_lorax1..2J"),
        ({"base_model": "m", "concept": ["x" * 500]}, "m_without_" + "x" * 80),
        ({"concept": ["猫"]}, "model_without_猫"),
        ({"base_model": "m"}, "m_semu"),
        ({"base_model": "m", "concept": ["猫" * 80]}, "m_without_" + "猫" * 63),
    ],
)
def test_names_of_files(about, name):
    assert kohya_file(about) == f"{name}_kohya.safetensors"


def test_a_concept_is_one_short_line():
    assert concept_names({"concept": ["a\nb\t c", "\x1b[31mred", "y" * 200]}) == ["a b c", "31mred", "y" * 80]


@pytest.mark.parametrize(
    ("concepts", "said"),
    [
        ([], "what it was made to forget, and answers prompts for it with a car."),
        (["gun"], "gun, and answers prompts for it with a car."),
        (["gun", "knife"], "gun and knife, and answers prompts for them with a car."),
        (["gun", "knife", "bomb"], "gun, knife and bomb, and answers prompts for them with a car."),
    ],
)
def test_one_concept_or_several_as_a_sentence(concepts, said):
    about = {"base_model": "m", "concept": concepts, "anchor": "a car"}
    assert described(about) == f"SEMU adapter for m: takes away {said}"


# ------------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("precision", [None, "fp16"])
def test_merged_folders_are_in_the_layout_that_all_versions_read(tmp_path, precision):
    base = build_family("sdxl", tmp_path / "base")
    pipe = carrying(base, parts=("unet", "text_encoder"))
    folder = export(pipe, tmp_path / "merged", "merged", precision=precision)
    for part in ("text_encoder", "text_encoder_2"):
        names = set(load_file(folder / part / "model.safetensors"))
        assert all(name.startswith(("text_model.", "text_projection.")) for name in names)
        assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in names
    for tokenizer in ("tokenizer", "tokenizer_2"):
        vocabulary = json.loads((folder / tokenizer / "vocab.json").read_text("utf-8"))
        assert vocabulary == getattr(pipe, tokenizer).get_vocab()
        merges = (folder / tokenizer / "merges.txt").read_text("utf-8").splitlines()
        assert merges[0].startswith("#version") and all(line.count(" ") == 1 for line in merges[1:])
    again = load_family(folder)
    prompt = again.encode_prompt("a cat in neon style", device="cpu")[0]
    torch.testing.assert_close(prompt, pipe.encode_prompt("a cat in neon style", device="cpu")[0])
    stored = {v.dtype for v in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").values()}
    assert stored == {torch.float16 if precision else torch.float32}
    modes = {stat.S_IMODE(f.stat().st_mode) for f in folder.rglob("*") if f.is_file()}
    assert len(modes) == 1


def test_the_embedded_model_is_in_that_layout_and_no_weight_is_missing(assets):
    """Without `text_model.` in the names, transformers 5.0 to 5.5 take random weights and say nothing."""
    stored = load_file(assets / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in stored)
    loaded = load_pipeline("pictograms", "cpu").text_encoder
    weights = {name.removeprefix("text_model."): p for name, p in loaded.named_parameters()}
    assert {name.removeprefix("text_model.") for name in stored} >= set(weights)
    assert all(torch.equal(p, stored[f"text_model.{name}"].float()) for name, p in weights.items())
    assert {"vocab.json", "merges.txt", "tokenizer.json"} <= {f.name for f in (assets / "tokenizer").iterdir()}


def test_the_slow_way_to_read_the_tokenizer_gives_the_same_ids(assets, tmp_path):
    """vocab.json and merges.txt alone, as transformers 4 reads them."""
    import shutil

    from transformers import CLIPTokenizer

    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(assets / "tokenizer" / name, tmp_path)
    texts = ["a picture of a rocket in neon style", "Kitten, sepia style!", "über 漢", ""]
    fast, slow = (CLIPTokenizer.from_pretrained(folder)(texts).input_ids for folder in (assets / "tokenizer", tmp_path))
    assert fast == slow


def test_other_tokenizers_are_left_alone(tmp_path):
    pipe = load_family(build_family("pixart", tmp_path / "base"))
    save_folder(pipe, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer" / "vocab.json").exists()


def test_pixart_file_is_written_though_diffusers_has_no_lora(tmp_path):
    pipe = load_family(build_family("pixart", tmp_path / "base"))
    put_on(pipe.transformer)
    save_adapters(pipe, tmp_path / "out")
    save_loras(pipe, tmp_path / "out")
    file = next((tmp_path / "out").glob("*_kohya.safetensors"))
    assert all(key.startswith("transformer.") for key in load_file(file))
    assert not (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()
