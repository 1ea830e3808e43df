"""Loading: what is looked at before a weight is read, dtypes, variants, shards, the Hub, and errors of one line."""

import importlib.util
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from semu_diffusion import load_pipeline
from semu_diffusion.adapter.base_layers import is_adaptable, is_quantised
from semu_diffusion.diffusion.families import FAMILIES
from semu_diffusion.diffusion.files import choose_variant, stored_dtype
from semu_diffusion.diffusion.loading import Loading, component_dtypes, computed, place
from semu_diffusion.diffusion.loading_choices import QUANTISED
from semu_diffusion.diffusion.pipeline import EMBEDDED
from semu_diffusion.diffusion.quantise import PACKAGES, quantisation
from semu_diffusion.evaluation.drawing import source_of

REPO = "someone/model"


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def rewrite(pipe_folder, **options):
    """The model's UNet written again, by diffusers."""
    pipe = load_pipeline(str(pipe_folder), "cpu")
    shutil.rmtree(pipe_folder / "unet")
    pipe.unet.save_pretrained(pipe_folder / "unet", **options)
    return pipe.unet.state_dict()


def refused(match, *arguments, **options):
    with pytest.raises(ValueError, match=match) as caught:
        load_pipeline(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1


# ------------------------------------------------------------------------------------ before any weight


@pytest.mark.parametrize("name, match", [
    ("KandinskyPipeline", r"is a KandinskyPipeline, not a family that can be erased from; known: Stable Diffusion"),
    ("NoSuchPipeline", r"names no pipeline of diffusers [\d.]+ \(its _class_name is 'NoSuchPipeline'\); a newer one"),
])  # fmt: skip
def test_the_family_is_known_before_a_weight_is_read(name, match, model):
    edit(model / "model_index.json", _class_name=name)
    for file in model.rglob("*.safetensors"):
        file.write_bytes(b"no weights")
    refused(match, str(model))


def test_every_family_is_known_by_its_index():
    from semu_diffusion.diffusion.families import takes

    assert all(takes({"_class_name": name}) for family in FAMILIES for name in family.pipelines)
    assert takes({"_class_name": ["pipeline", "Mine"], "unet": ["diffusers", "UNet2DModel"]})
    assert not takes(
        {"_class_name": "HunyuanVideoPipeline", "transformer": ["diffusers", "HunyuanVideoTransformer3DModel"]}
    )


@pytest.mark.parametrize("text, match", [
    ("{", "is not JSON"), ("[]", "names no pipeline of diffusers"), ("{}", "names no pipeline of diffusers"),
])  # fmt: skip
def test_a_broken_index(text, match, model):
    (model / "model_index.json").write_text(text)
    refused(match, str(model))


# ------------------------------------------------------------------------------------------------ dtypes


def test_on_a_cpu_all_is_fp32_unless_asked(model):
    pipe = load_pipeline(str(model), "cpu")
    pipe.to(torch.float16)
    pipe.save_pretrained(model)
    assert load_pipeline(str(model), "cpu").unet.dtype == torch.float32
    half = load_pipeline(str(model), "cpu", dtype="bf16")
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.bfloat16}
    assert load_pipeline(str(model), "cpu", torch.float16).unet.dtype == torch.float16


def test_on_a_gpu_each_part_is_as_its_files(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    pipe = load_pipeline(str(model), "cpu")
    pipe.unet.to(torch.bfloat16).save_pretrained(model / "unet")
    index, gpu = json.loads((model / "model_index.json").read_text()), torch.device("cuda")
    found = component_dtypes(model, index, None, gpu, "auto")
    assert found["unet"] == torch.bfloat16 and found["vae"] == found["text_encoder"] == torch.float32
    assert component_dtypes(model, index, None, gpu, "fp16") == torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert computed(torch.bfloat16, gpu) == torch.float16 and computed(torch.float32, gpu) == torch.float32


def test_the_embedded_model_computes_in_fp32_though_its_files_are_fp16():
    from pathlib import Path

    from semu_diffusion.diffusion.pipeline import model_path

    files = list(Path(model_path(EMBEDDED)).glob("unet/*.safetensors"))
    assert stored_dtype(files) == torch.float16
    assert load_pipeline(EMBEDDED, "cpu").unet.dtype == torch.float32


def test_what_a_model_keeps_in_fp32_stays_so(model, monkeypatch):
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(UNet2DConditionModel, "_keep_in_fp32_modules", ["time_embedding"])
    pipe = load_pipeline(str(model), "cpu", "bf16")
    assert pipe.unet.time_embedding.linear_1.weight.dtype == torch.float32
    assert pipe.unet.conv_in.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("options, match", [
    ({"dtype": "int8"}, "dtype must be auto, fp32, fp16, bf16, got 'int8'"),
    ({"dtype": torch.float64}, "dtype must be auto"),
    ({"quantize": "int3"}, "quantize must be one of bnb-4bit, bnb-8bit, torchao-int8, quanto-int8, got 'int3'"),
    ({"offload": "disk"}, "offload must be one of none, model, group, sequential, got 'disk'"),
    ({"offload": "model"}, "--offload model keeps idle parts on the CPU, and this run is on it already"),
])  # fmt: skip
def test_options_that_cannot_be(options, match, tiny_model):
    refused(match, str(tiny_model), "cpu", **options)


# ---------------------------------------------------------------------------------------------- variants


def test_the_only_variant_is_taken(model):
    weights = rewrite(model, variant="fp16")
    assert [f.name for f in (model / "unet").glob("*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]
    for options in ({}, {"variant": "fp16"}):
        found = load_pipeline(str(model), "cpu", **options).unet.state_dict()
        assert all(torch.equal(found[k], v) for k, v in weights.items())


def test_variants_to_choose_from(model):
    rewrite(model, variant="fp16")
    file = model / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(file, file.with_name("diffusion_pytorch_model.ema.safetensors"))
    refused("several variants; choose one with --variant: ema, fp16", str(model))
    refused("has no variant 'bf16'; there are: ema, fp16", str(model), variant="bf16")
    assert load_pipeline(str(model), "cpu", variant="ema").unet.dtype == torch.float32


@pytest.mark.parametrize("files, wanted, found", [
    (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"], None, None),
    (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"], "fp16", "fp16"),
    (["transformer/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], None, "fp16"),
    (["transformer/diffusion_pytorch_model-00001-of-00002.safetensors"], None, None),
    (["text_encoder/model.fp16.safetensors"], None, None),
])  # fmt: skip
def test_variants_by_the_names_of_files(files, wanted, found):
    assert choose_variant(files, wanted, "x") == found


def test_no_pickles(model):
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    refused("has no .safetensors weights; weights in .bin may run code when they are read, so convert them", str(model))


# ------------------------------------------------------------------------------------------------- files


def test_shards(model):
    weights = rewrite(model, max_shard_size="100KB")
    shards = sorted(f.name for f in (model / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    found = load_pipeline(str(model), "cpu").unet.state_dict()
    assert all(torch.equal(found[k], v) for k, v in weights.items())
    (model / "unet" / shards[1]).unlink()
    refused(f"is incomplete: unet/{shards[1]} is missing; download it again", str(model))


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00garbage"])
def test_damaged_weights(content, model):
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    refused("cannot load the model", str(model))


def test_missing_weights_and_wrong_shapes(model):
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "conv_in.weight": torch.zeros(3, 3)}, file, {"format": "pt"})
    refused("cannot load the model", str(model))
    file.unlink()
    refused("cannot load the model .*no file named diffusion_pytorch_model.safetensors", str(model))


def test_a_quantiser_that_is_not_installed(model):
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    edit(model / "unet" / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    refused("(needs a package that is missing|cannot load the model).*bitsandbytes|GPU", str(model))


def test_an_unknown_quantiser(model):
    edit(model / "unet" / "config.json", quantization_config={"quant_method": "magic"})
    refused("cannot load the model .*magic", str(model))


def test_components_that_erasing_never_uses_stay_where_they_are(model):
    edit(model / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
         image_encoder=["transformers", "CLIPVisionModelWithProjection"])  # fmt: skip
    pipe = load_pipeline(str(model), "cpu")  # there are no weights for either
    assert pipe.safety_checker is None and pipe.image_encoder is None
    refused("cannot load the model", str(model), whole=True)


def test_a_subfolder(model):
    inside = model.parent / "outer" / "inner"
    shutil.copytree(model, inside)
    assert load_pipeline(str(inside.parent), "cpu", subfolder="inner").unet is not None
    refused("no model at .*outer/none", str(inside.parent), subfolder="none")
    refused("is a folder without model_index.json", str(inside.parent))


# ----------------------------------------------------------------------------------------------- the Hub


def upload(hub, folder, revision="main"):
    """The model as a repository of the local Hub."""
    files = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    commit = f"{len(hub.repos.get(REPO, {})):040d}"
    hub.repos.setdefault(REPO, {}).update({commit: files, revision: files})
    return files


def test_from_the_hub_at_a_revision_and_again_without_it(hub, model, tmp_path):
    upload(hub, model)
    rewrite(model, variant="fp16")
    upload(hub, model, "half")
    cache = {"cache_dir": str(tmp_path / "there")}
    plain = load_pipeline(REPO, "cpu", **cache)
    half = load_pipeline(REPO, "cpu", revision="half", **cache)
    assert torch.equal(plain.unet.conv_in.weight, half.unet.conv_in.weight)
    hub.close()
    again = load_pipeline(REPO, "cpu", local_files_only=True, **cache)
    assert torch.equal(again.unet.conv_in.weight, plain.unet.conv_in.weight)
    refused("cannot reach the Hub, and .* is neither in the local cache", "someone/other", local_files_only=True)


def test_what_the_hub_refuses(hub, model):
    files = upload(hub, model)
    refused("no model someone/none on the Hub that this token may see", "someone/none")
    refused(f"{REPO} has no such revision", REPO, revision="none")
    hub.gated = True
    refused("is gated: accept its terms on https://huggingface.co/someone/model", REPO)
    hub.gated = False
    del files["model_index.json"]
    refused("has no model_index.json, so it is no diffusers pipeline", REPO)
    index = json.loads((model / "model_index.json").read_text())
    files["model_index.json"] = json.dumps({**index, "_class_name": "MochiPipeline"}).encode()
    hub.requests.clear()
    refused("is a MochiPipeline, not a family that can be erased from", REPO, cache_dir=str(model.parent / "new"))


def test_a_subfolder_of_the_hub(hub, model):
    outer = model.parent / "outer"
    shutil.copytree(model, outer / "inner")
    upload(hub, outer)
    assert load_pipeline(REPO, "cpu", subfolder="inner").unet is not None


# ----------------------------------------------------------------------------------------------- offload


@pytest.mark.parametrize("offload, method", [
    ("model", "enable_model_cpu_offload"), ("sequential", "enable_sequential_cpu_offload"),
    ("group", "enable_group_offload"), ("none", "to"),
])  # fmt: skip
def test_offload_calls_the_way_of_diffusers(offload, method):
    class Pipe:
        def __getattr__(self, name):
            return lambda *arguments, **options: self.__dict__.update(called=name)

    assert place(pipe := Pipe(), torch.device("cuda"), offload) is pipe and pipe.called == method


def test_loading_by_the_shell(semu, model, tmp_path):
    rewrite(model, variant="fp16")
    command = ("generate", "--model", model, "--prompt", "a picture of a cat", "--output", tmp_path / "a.png")
    status, out, err = semu(*command, "--steps", 1, "--device", "cpu", "--variant", "bf16")
    assert status == 2 and "has no variant 'bf16'; there are: fp16" in err and "Traceback" not in err
    status, out, err = semu(*command, "--steps", 1, "--device", "cpu", "--dtype", "bf16")
    assert status == 0 and (tmp_path / "a.png").is_file(), err


def test_options_as_one_object(tiny_model):
    assert load_pipeline(str(tiny_model), "cpu", loading=Loading(dtype="bf16")).unet.dtype == torch.bfloat16


# ------------------------------------------------------------------------------- parts that cannot be had


@pytest.mark.parametrize("part, named", [
    ("unet", ["diffusers", "NoSuchModel"]), ("scheduler", ["diffusers", "NoSuchScheduler"]),
    ("text_encoder", ["transformers", "NoSuchEncoder"]), ("unet", ["no_such_library", "Model"]), ("unet", "diffusers"),
    ("tokenizer", ["transformers", None, "x"]),
])  # fmt: skip
def test_a_part_of_an_unknown_class(part, named, model):
    edit(model / "model_index.json", **{part: named})
    refused(f"(cannot load the model|needs a package|{part})", str(model), "cpu")


@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer", "scheduler", "vae"])
def test_a_part_without_its_folder(part, model):
    shutil.rmtree(model / part)
    refused("(cannot load the model|is incomplete|no such)", str(model), "cpu")


def test_a_missing_shard_of_a_text_encoder(model):
    load_pipeline(str(model), "cpu").text_encoder.save_pretrained(model / "sharded", max_shard_size="20KB")
    shutil.rmtree(model / "text_encoder")
    (model / "sharded").rename(model / "text_encoder")
    shards = sorted(f.name for f in (model / "text_encoder").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    (model / "text_encoder" / shards[0]).unlink()
    refused(f"is incomplete: text_encoder/{shards[0]} is missing; download it again", str(model), "cpu")


def test_weights_of_another_quantiser(model):
    """Plain weights under configs that say something else of them, or nothing that can be."""
    methods = [
        {"quant_method": "gguf", "compute_dtype": "float32"}, {"quant_method": "quanto", "weights_dtype": "int8"},
        {"quant_method": "torchao", "quant_type": "nonsense"}, {"quant_method": 7},
        {"quant_method": "bitsandbytes", "load_in_4bit": 3},
    ]  # fmt: skip
    for said in (*methods, {}, "int8"):
        edit(model / "unet" / "config.json", quantization_config=said)
        refused("(cannot load the model|needs a package)", str(model), "cpu")


@pytest.mark.parametrize("fault", ["class", "shard", "quantiser"])
def test_a_model_that_cannot_be_had_ends_the_command_in_one_line(fault, semu, model, tmp_path):
    if fault == "class":
        edit(model / "model_index.json", unet=["no_such_library", "Model"])
    if fault == "quantiser":
        edit(model / "unet" / "config.json", quantization_config={"quant_method": "magic"})
    if fault == "shard":
        (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    status, out, err = semu("erase", "--model", model, "--concept", "cat", "--output", tmp_path / "out", "--quiet")
    assert (status, out) == (2, "") and err.startswith("semu: ") and err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------- quantised while loading


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_while_loading(kind, model):
    """The denoiser's Linears are this package's, and answer nearly the same; where it is missing, a line says so."""
    _, package = PACKAGES[kind]
    try:
        pipe = load_pipeline(str(model), "cpu", quantize=kind)
    except ValueError as error:
        lacks = rf"--quantize {kind} needs {package}: pip install {package}|cannot load the model .* No GPU found.*"
        assert re.fullmatch(lacks, str(error)), error
        pytest.skip(str(error))
    plain, (x, t, text) = load_pipeline(str(model), "cpu"), (torch.randn(1, 4, 8, 8), 5, torch.randn(1, 16, 32))
    layers = [layer for layer in pipe.unet.modules() if is_adaptable(layer) and is_quantised(layer)]
    assert len(layers) > 20 and not any(is_quantised(m) for m in pipe.text_encoder.modules() if is_adaptable(m))
    with torch.no_grad():
        found, true = (p.unet(x, t, text).sample for p in (pipe, plain))
    assert 0 < (found - true).norm() < 0.1 * true.norm()
    assert source_of(pipe)["quantised"] == package.removeprefix("optimum-") and "quantised" not in source_of(plain)
    pipe.unet.save_pretrained(model / "unet")
    refused(r"unet is quantised already \(\w+\); leave out --quantize", str(model), "cpu", quantize=kind)


def test_a_single_file_is_not_quantised(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    refused("--quantize is for a diffusers folder or a Hub id", str(tmp_path / "a.safetensors"), quantize="bnb-4bit")


def test_what_each_kind_asks_diffusers_for(monkeypatch, tmp_path):
    """Of the kinds that need a GPU: which parts, and in which type they compute."""
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setattr("semu_diffusion.diffusion.quantise.check_package", lambda kind: None)
    monkeypatch.setattr(diffusers.BitsAndBytesConfig, "post_init", lambda self: None)  # looks for the package
    index = {name: ["diffusers", "X"] for name in ("transformer", "transformer_2", "vae")} | {"unet": [None, None]}
    dtypes = {"transformer": torch.bfloat16, "default": torch.float32}
    config = quantisation("bnb-4bit", tmp_path, index, dtypes)["quantization_config"].quant_mapping
    assert set(config) == {"transformer", "transformer_2"}
    assert config["transformer"].load_in_4bit and config["transformer"].bnb_4bit_quant_type == "nf4"
    assert config["transformer"].bnb_4bit_compute_dtype == torch.bfloat16
    config = quantisation("bnb-8bit", tmp_path, index, torch.float16)["quantization_config"].quant_mapping
    assert config["transformer"].load_in_8bit
    assert quantisation(None, tmp_path, index, dtypes) == {}
