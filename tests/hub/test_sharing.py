"""semu export, merge and inspect, several adapters at once, one on top of another, and the model card."""

import hashlib
import json
import warnings

import pytest
import torch
import yaml
from adapters import outputs, put_on, same, truth
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from tiny import QUICK

from semu_diffusion import draw, erase, load_adapter, load_adapters, load_pipeline, set_weights
from semu_diffusion.adapter import SemuConfig
from semu_diffusion.adapter.files import save_atomic
from semu_diffusion.adapter.weights import WEIGHTS, inject, semu_layers
from semu_diffusion.diffusion.blocks import block_of, by_depth, depth_bars
from semu_diffusion.diffusion.export import FORMATS, export
from semu_diffusion.diffusion.lora import save_lora
from semu_diffusion.diffusion.merging import merge_adapters
from semu_diffusion.diffusion.multi_adapter import short_names
from semu_diffusion.diffusion.on_top import BEFORE, join_before, load_before, train_beside
from semu_diffusion.diffusion.pipeline import parts, save_adapters
from semu_diffusion.diffusion.results import REPORTS, remove_reports
from semu_diffusion.evaluation.suites.pictograms import ROWS
from semu_diffusion.hub.card import write_card
from semu_diffusion.hub.contents import read_contents

EVALUATION = {
    "base": {"UA": 0.0, "IRA": 99.0, "CRA": 98.0, "neighbours": None},
    "erased": {"UA": 97.5, "IRA": 96.0, "CRA": 95.0, "neighbours": None, "counts": {"forget": 24, "keep": 138}},
    "protocol": {"suite": "pictograms", "sampler": "DDIM", "steps": 15, "guidance": 3.0, "versions": {"torch": "2"}},
}
TRAINING = {"layers": 4, "trained": 1234, "trained_percent": 0.5, "steps": 20, "seconds": 3.0, "left": 0.1,
            "energy": {"conv_in": 0.95}}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    """Two adapters: the first on the UNet, the second on the UNet's attention and the text encoder."""
    root = tmp_path_factory.mktemp("adapters")
    for k, name in enumerate(("no-cigarette", "no-neon")):
        pipe = load_pipeline(str(tiny_model), "cpu")
        put_on(pipe.unet, k, r".*attn.*" if k else None)
        if k:
            put_on(pipe.text_encoder, k)
        save_adapters(pipe, root / name, {"concept": [name[3:]], "base_model": "someone/tiny", "seed": 0})
        save_lora(pipe, root / name)
    return root / "no-cigarette", root / "no-neon"


@torch.no_grad()
def true_sum(folders, weights, tiny_model):
    """The base model with both updates, each added in float64."""
    pipe = load_pipeline(str(tiny_model), "cpu")
    for folder, weight in zip(folders, weights):
        other = load_pipeline(str(tiny_model), "cpu")
        load_adapter(other, folder)
        for part, model in parts(other).items():
            for name, layer in semu_layers(model).items():
                U, R, V = (getattr(layer, f"semu_{p}")["default"].double() for p in "URV")
                w = getattr(pipe, part).get_submodule(name).weight
                w.copy_((w.double() + weight * (U @ R @ V.T).reshape(w.shape)).float())
    return outputs(pipe)


# ------------------------------------------------------------------------------------ several at once


def test_several_at_weights_of_their_own(folders, tiny_model):
    pipe = load_pipeline(str(tiny_model), "cpu")
    base = outputs(pipe)
    configs = load_adapters(pipe, folders, [1.0, 0.5])
    assert {name: c.about["concept"] for name, c in configs.items()} == {
        "no-cigarette": ["cigarette"], "no-neon": ["neon"],
    }  # fmt: skip
    same(outputs(pipe), true_sum(folders, [1.0, 0.5], tiny_model))
    set_weights(pipe, {"no-neon": 1.0})
    same(outputs(pipe), true_sum(folders, [0.0, 1.0], tiny_model))
    set_weights(pipe, {})
    assert all(torch.equal(v, base[k]) for k, v in outputs(pipe).items())
    assert not any(p.requires_grad for m in parts(pipe).values() for n, p in m.named_parameters() if "semu_" in n)
    with pytest.raises(ValueError, match="no adapter named 'no-dog'; loaded: no-cigarette, no-neon"):
        set_weights(pipe, {"no-dog": 1.0})
    with pytest.raises(ValueError, match="has an adapter named 'no-neon' already"):
        load_adapters(pipe, folders[1:])


def test_nothing_is_loaded_unless_all_is_sound(folders, tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    with pytest.raises(ValueError, match="no adapter at"):
        load_adapters(pipe, [folders[0], tmp_path / "absent"])
    with pytest.raises(ValueError, match="1 weights for 2 adapters"):
        load_adapters(pipe, folders, [1.0])
    assert not any(getattr(m, "peft_config", None) for m in parts(pipe).values())


def test_short_names():
    assert short_names(["a/no-x", "b/no-x", "user/no-y", "c/no-x", "d/v1.5", "e/file.safetensors"]) == [
        "no-x", "no-x-2", "no-y", "no-x-3", "v1_5", "file",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------- merging


def test_merge(folders, tiny_model, tmp_path, semu):
    weights = ["--weight", 1, "--weight", 0.5, "--way", "sum", "--precision", "fp32"]
    status, out, err = semu("merge", *folders, "--output", tmp_path / "both", "--model", tiny_model, *weights)
    assert status == 0, err
    assert "overlap of the outputs' spaces" in out and "no-neon" in out
    names = {p.name for p in (tmp_path / "both").iterdir()} - {".semu"}
    kohya = f"{tiny_model.name}_without_cigarette_and_neon_kohya.safetensors"
    assert names == {
        WEIGHTS, "adapter_config.json", "text_encoder", "pytorch_lora_weights.safetensors", kohya, "results.json",
        "interference.png", "README.md",
    }  # fmt: skip
    expected = true_sum(folders, [1.0, 0.5], tiny_model)
    for load, atol in ((load_adapter, 1e-5), (lambda p, folder: p.load_lora_weights(folder), 1e-5)):
        pipe = load_pipeline(str(tiny_model), "cpu")
        load(pipe, tmp_path / "both")
        same(outputs(pipe), expected, atol)
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    assert results["concept"] == ["cigarette", "neon"] and results["weights"] == [1.0, 0.5]
    matrix = results["interference"]["columns"]
    assert matrix[0][0] == pytest.approx(1, abs=1e-5) and 0 < matrix[0][1] == matrix[1][0] < 1
    assert Image.open(tmp_path / "both" / "interference.png").size[0] > 300
    card = (tmp_path / "both" / "README.md").read_text()
    assert "cigarette and neon" in card and "no-cigarette (1), no-neon (0.5)" in card


@pytest.fixture(scope="module")
def small(tiny_model, tmp_path_factory):
    """Three adapters whose updates are small enough for a layer's inputs to stay much as they were."""
    root, folders = tmp_path_factory.mktemp("small"), []
    for k, name in enumerate(("no-cat", "no-dog", "no-car")):
        pipe = load_pipeline(str(tiny_model), "cpu")
        put_on(pipe.unet, k, r".*attn.*" if k else None)
        for layer in semu_layers(pipe.unet).values():
            layer.semu_R["default"].data *= 0.1
        about = {"concept": [name[3:]], "base_model": "someone/tiny"}
        folders.append(save_adapters(pipe, root / name, about, precision="fp16" if k else "bf16"))
    return folders


@pytest.fixture(scope="module")
def fused(small, tiny_model, tmp_path_factory):
    """The first two fused: the folder, what was returned, what was warned of, and the pipeline."""
    folder, said, pipe = tmp_path_factory.mktemp("fused"), [], load_pipeline(str(tiny_model), "cpu")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LATENTS", 6), ("KEPT_LATENTS", 8), ("STEPS", 3)):
            patch.setattr(f"semu_diffusion.diffusion.scene.{name}", value)
        return folder, merge_adapters(pipe, small[:2], folder, warn=said.append), said, pipe


def test_fused_adapters_do_what_each_does_on_its_concept_and_less_elsewhere(fused, tiny_model):
    folder, results, said, pipe = fused
    before, after = results["fusion"]["stack"], results["fusion"]["fused"]
    assert after["kept"] < 0.8 * before["kept"], results["fusion"]
    assert sum(after["error"].values()) < sum(before["error"].values()), results["fusion"]
    assert all(0.6 < way < 1.4 for way in after["way"].values())
    assert said[0].startswith("the adapters change different layers (no-cat ") and "together" in said[0]
    again = load_pipeline(str(tiny_model), "cpu")
    config = load_adapter(again, folder)
    same(outputs(again), outputs(pipe))
    assert config.about["way"] == "fuse" and config.about["precision"] == "int8"
    assert list(pipe.unet.peft_config) == ["default"]


def test_a_fused_file_remembers_its_parts_by_hash(fused, small, tiny_model, tmp_path):
    folder, results, *_ = fused
    names, hashes = ([part[key] for part in results["parts"]] for key in ("name", "sha256"))
    assert names == ["no-cat", "no-dog"] and [part["concept"] for part in results["parts"]] == [["cat"], ["dog"]]
    assert hashes[0] == hashlib.sha256((small[0] / WEIGHTS).read_bytes()).hexdigest()
    pipe = load_pipeline(str(tiny_model), "cpu")
    with pytest.raises(ValueError, match=f"both and no-dog hold the same adapter .sha256 {hashes[1][:12]}"):
        merge_adapters(pipe, [folder, small[1]], tmp_path / "x", names=["both", "no-dog"])
    assert not (tmp_path / "x").exists()
    more = merge_adapters(pipe, [folder, small[2]], tmp_path / "y", way="sum", warn=list)
    assert [part["name"] for part in more["parts"]] == ["no-cat", "no-dog", "no-car"]
    assert more["concept"] == ["cat", "dog", "car"]


def test_many_at_once_are_warned_of(folders, tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        load_adapters(pipe, folders)
    names = {f"a{k}": folders[0] for k in range(2)}
    with pytest.warns(UserWarning, match=r"these 4 adapters change .*: semu merge no-cigarette a0 a1 no-neon"):
        load_adapters(pipe, names)


def test_reports_about_an_earlier_adapter_go_and_nothing_else(tmp_path):
    (tmp_path / "gallery").mkdir()
    for name in (*REPORTS, "gallery/base-00.png", "notes.txt"):
        (tmp_path / name).touch()
    remove_reports(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    remove_reports(tmp_path / "absent")


def test_merge_refuses(folders, tiny_model, tmp_path, semu):
    def says(*words):
        status, out, err = semu("merge", *words, "--output", tmp_path / "out", "--model", tiny_model)
        assert status == 2 and out == "" and not (tmp_path / "out").exists()
        return err

    other = tmp_path / "other"
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    save_adapters(pipe, other, {"base_model": "someone/else"})
    assert "no-cigarette was made for someone/tiny, but other for someone/else" in says(folders[0], other)
    assert "give two or more adapters" in says(folders[0])
    assert "no-neon and no-neon-2 hold the same adapter (sha256 " in says(folders[1], folders[1])
    assert "unknown way 'mean'; known: fuse, sum" in says(*folders, "--way", "mean")
    assert "(0, 1], got 2" in says(*folders, "--energy", 2)
    assert "precision must be one of int8, fp32, fp16, bf16" in says(*folders, "--precision", "int4")
    named = tmp_path / "nameless"
    save_adapters(pipe, named, {"base_model": "someone/tiny"})
    assert "nameless does not say what it erases; add the adapters up with --way sum" in says(folders[0], named)
    save_adapters(pipe, named, {"base_model": "someone/tiny", "concept": ["mine.csv"]})
    assert "nameless erases the prompts of mine.csv, which is not here" in says(folders[0], named)
    weights = load_file(named / WEIGHTS)
    weights[next(key for key in weights if key.endswith("semu_R"))][0] = float("nan")
    save_atomic(weights, named / WEIGHTS)
    assert "semu_R holds values that are not finite numbers" in says(folders[0], named)
    assert "1 weights for 2 adapters" in says(*folders, "--weight", 1)
    assert "energy" in says(*folders, "--energy", 0)


# ------------------------------------------------------------------------------------------- on top of


def test_one_on_top_of_another(folders, tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    load_before(pipe, folders[1])
    same(outputs(pipe), true_sum(folders[1:], [1.0], tiny_model))
    put_on_default = SemuConfig(ranks={"conv_in": 2, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": 3},
                                about={"concept": ["dog"]})  # fmt: skip
    inject(pipe.unet, put_on_default)
    train_beside(pipe.unet)
    trained = {n for m in parts(pipe).values() for n, p in m.named_parameters() if p.requires_grad}
    assert len(trained) == 2 and all(n.endswith("semu_R.default") for n in trained)
    for layer in semu_layers(pipe.unet).values():
        U, V = (torch.randn_like(getattr(layer, f"semu_{p}")["default"]) for p in "UV")
        layer.set_basis("default", U, V, 0.1 * torch.randn(U.shape[1], U.shape[1]))
    both = outputs(pipe)
    assert (both["unet"] - true_sum(folders[1:], [1.0], tiny_model)["unet"]).abs().max() > 1e-2
    join_before(pipe)
    assert list(pipe.unet.peft_config) == list(pipe.text_encoder.peft_config) == ["default"]
    assert not semu_layers(pipe.unet, BEFORE)
    same(outputs(pipe), both)
    same(truth(pipe, tiny_model), both)
    assert pipe.unet.peft_config["default"].about == {"concept": ["dog"], "before": ["neon"]}
    again = load_pipeline(str(tiny_model), "cpu")
    load_adapter(again, save_adapters(pipe, tmp_path))
    same(outputs(again), both)


def test_erase_on_top_of_another(tiny_model, tmp_path):
    first = erase(str(tiny_model), "cat", tmp_path / "first", **QUICK)
    second = erase(str(tiny_model), "dog", tmp_path / "second", on_top_of=str(tmp_path / "first"), **QUICK)
    assert first.facts["before"] == [] and second.facts["before"] == ["cat"]
    assert list(second.pipe.unet.peft_config) == ["default"]
    again = load_pipeline(str(tiny_model), "cpu")
    load_adapter(again, tmp_path / "second")
    same(outputs(again), outputs(second.pipe))
    added = (outputs(again)["unet"] - outputs(first.pipe)["unet"]).abs().max()
    assert added > 1e-6
    with pytest.raises(ValueError, match="nowhere"):
        erase(str(tiny_model), "dog", tmp_path / "third", on_top_of=str(tmp_path / "nowhere"), **QUICK)
    assert not (tmp_path / "third").exists()


# ----------------------------------------------------------------------------------- export and inspect


def test_export_and_inspect_every_format(folders, tiny_model, tmp_path, semu):
    for form in FORMATS:
        out = tmp_path / form
        words = ["export", folders[1], "--output", out, "--model", tiny_model, "--to", form]
        status, said, err = semu(*words)
        assert status == 0, err
        status, listed, err = semu("inspect", said.strip(), "--json")
        assert status == 0, err
        contents = json.loads(listed)
        whole = form in ("merged", "single-file")
        assert bool(contents["ranks"]) != whole and contents["bytes"] > 0
        assert ("a whole model" in contents["format"]) == whole
        if not whole:
            assert sorted(contents["ranks"].values()) == sorted(read_contents(folders[1]).ranks.values())
        assert semu("inspect", out)[0] == 0


def test_compression_says_what_it_does(folders, tiny_model, tmp_path, semu):
    status, out, err = semu("export", folders[1], "--output", tmp_path / "out", "--model", tiny_model,
                            "--to", "native", "--compress", 0.8)  # fmt: skip
    assert status == 0 and "bytes instead of" in err and "of 255 levels per pixel" in err
    before, after = read_contents(folders[1]), read_contents(tmp_path / "out")
    assert f"ranks sum to {sum(after.ranks.values())} instead of {sum(before.ranks.values())}" in err
    assert after.about["concept"] == ["neon"]


def test_inspect_shows_facts_scores_and_a_picture(folders, tmp_path, semu):
    (folders[0] / "results.json").write_text(json.dumps({"evaluation": EVALUATION, "training": TRAINING}))
    status, out, _ = semu("inspect", folders[0], "--output", tmp_path / "ranks.png")
    (folders[0] / "results.json").unlink()
    assert status == 0 and "someone/tiny" in out and "cigarette" in out and "97.50" in out and "95%" in out
    assert "█" in out and Image.open(tmp_path / "ranks.png").size[0] > 300
    blocks = list(by_depth(read_contents(folders[1]).ranks))
    assert blocks == ["text_encoder 0", "text_encoder 1", "down 0", "mid", "up 1"]


@pytest.mark.parametrize(
    "name, block",
    [
        ("down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k", "down 2"),
        ("unet.up_blocks.1.resnets.0.conv1", "up 1"),
        ("lora_unet_down_blocks_0_attentions_1_proj_in", "down 0"),
        ("lora_unet_input_blocks_4_1_proj_in", "input 4"),
        ("lora_unet_middle_block_1_transformer_blocks_3_attn1_to_q", "mid"),
        ("lora_unet_output_blocks_5_2_conv", "output 5"),
        ("lora_unet_time_embed_0", "time_embed"),
        ("lora_unet_double_blocks_3_img_attn_qkv", "double 3"),
        ("lora_unet_single_blocks_12_linear1", "single 12"),
        ("transformer.transformer_blocks.2.attn1.to_q", "block 2"),
        ("mid_block.resnets.0.conv1", "mid"),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1", "te 11"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc1", "text_encoder 3"),
        ("text_encoder_2.encoder.layers.3.mlp.fc1", "text_encoder_2 3"),
        ("transformer_blocks.7.attn.to_q", "block 7"),
        ("conv_in", "conv_in"),
        ("time_embedding.linear_1", "time_embedding"),
    ],
)
def test_blocks(name, block):
    assert block_of(name) == block


def test_a_header_cannot_steer_the_terminal(folders, tiny_model, tmp_path, semu):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    save_adapters(pipe, tmp_path, {"concept": ["\x1b[2J[bold]cat"], "anchor": "a\nb" + "x" * 999})
    status, out, _ = semu("inspect", tmp_path)
    assert status == 0 and "\x1b" not in out and "[bold]cat" in out and "x" * 300 not in out.replace("\n", "")
    for text in ("[", "[]", '{"training": 5, "evaluation": {"base": 1}}', '{"training": {"energy": [1]}}'):
        (tmp_path / "results.json").write_text(text)
        assert read_contents(tmp_path).energy == {}
    assert depth_bars({}) == []


# ------------------------------------------------------------------------------------------------ card


def card_of(pipe, folder, base, results=None):
    save_adapters(pipe, folder, {"base_model": base, "concept": ["cigarette"], "anchor": "a pencil"})
    save_lora(pipe, folder)
    export(pipe, folder, "kohya")
    write_card(folder, {"base_model": base, "training": TRAINING, "evaluation": EVALUATION, **(results or {})}, ROWS)
    return (folder / "README.md").read_text()


def test_the_card(tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    text = card_of(pipe, tmp_path, "someone/model")
    card = ModelCard(text)
    assert card.data.base_model == "someone/model" and card.data["base_model_relation"] == "adapter"
    assert {"semu", "peft", "lora"} <= set(card.data.tags)
    scores = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert scores == {"UA": 97.5, "IRA": 96.0, "CRA": 95.0}
    assert "model-index" in yaml.safe_load(text.split("---")[1])
    for words in ("load_lora_weights", "PeftModel.from_pretrained", "ComfyUI", "| UA | 0.00 | 97.50 |", "'a pencil'",
                  "torch 2", "1,234 trained numbers", "## Intended use and limits"):  # fmt: skip
        assert words in text, words
    import hashlib

    assert hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest() in text


def test_the_card_shows_how_to_have_several(tiny_model, tmp_path):
    """Its lines, run: an eraser beside a style, where diffusers alone would leave only the one loaded last."""
    pipe = load_pipeline(str(tiny_model), "cpu")
    for seed, name in enumerate(("eraser", "style")):
        other = load_pipeline(str(tiny_model), "cpu")
        put_on(other.unet, seed)
        export(other, tmp_path / name, "diffusers")
    text = card_of(other, tmp_path / "card", "someone/model")
    lines = [line for line in text.splitlines() if 'adapter_name="' in line or "set_adapters" in line]
    for hub, here in (("path/to/this/folder", "eraser"), ("someone/style", "style")):
        lines = [line.replace(hub, str(tmp_path / here)) for line in lines]
    run = lambda code: exec(code, {"pipe": pipe})  # noqa: E731
    run(lines[0])
    alone = draw(pipe, ["a cat"], [0], steps=2)
    run(lines[1])
    last = draw(pipe, ["a cat"], [0], steps=2)
    run(lines[2])
    assert pipe.get_active_adapters() == ["eraser", "style"]
    both = draw(pipe, ["a cat"], [0], steps=2)
    assert not torch.equal(both, alone) and not torch.equal(both, last)
    pipe.set_adapters(["style"])
    assert torch.equal(draw(pipe, ["a cat"], [0], steps=2), last)  # what loading alone had left on


def test_the_card_of_a_model_that_is_not_on_the_hub(tiny_model, tmp_path):
    pipe = load_pipeline(str(tiny_model), "cpu")
    put_on(pipe.unet)
    text = card_of(pipe, tmp_path / "a", str(tiny_model), {"evaluation": None})
    assert str(tiny_model) not in text and "base_model" not in text.split("---")[1]
    assert 'from_pretrained("path/to/the/base/model")' in text and "No suite was run" in text
    text = card_of(pipe, tmp_path / "b", "pictograms")
    assert 'from_pretrained(model_path("pictograms"))' in text and "import model_path" in text
