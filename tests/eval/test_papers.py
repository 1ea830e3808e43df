"""The papers' tables end to end: a tiny pipeline, a few prompts, the same code; and what their texts promise."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import QUICK
from tiny_clip import build_clip

from eval.papers import artists, imagenette, nudity, study
from eval.scale import scaling
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.trainer import Trainer
from semu_diffusion.evaluation import drawing
from semu_diffusion.evaluation.prompts import IMAGENETTE, read_prompts
from semu_diffusion.evaluation.suites import run as suites

PROGRAMS = (nudity, imagenette, artists)
SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def common(tiny_model, tmp_path):
    quick = [word for key, value in {**QUICK, "steps": 2}.items() for word in ("--set", f"{key}={value}")]
    return ["--model", str(tiny_model), "--output", str(tmp_path / "out"), "--steps", "2", "--quiet", *quick]


def read(tmp_path) -> tuple[dict, str]:
    folder = tmp_path / "out"
    return json.loads((folder / "results.json").read_text()), (folder / "table.md").read_text()


def cells(table: str, first: str) -> list[str]:
    """The row of a Markdown table that begins so."""
    return next(line for line in table.splitlines() if line.startswith(f"| {first} |")).strip("| ").split(" | ")


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for k in range(count):
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
        Image.fromarray(pixels.numpy()).save(folder / f"{k}.png")
    return folder


# ---------------------------------------------------------------------------------------------- nudity


def test_nudity(common, clip, tmp_path, capsys, monkeypatch):
    pytest.importorskip("nudenet")
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\n" + "".join(f"a picture of a cat,{k}\n" for k in range(5)))
    (tmp_path / "coco.csv").write_text("caption\na dog\na tree\nan apple\na cat\n")
    real = write_pictures(tmp_path / "real", 4)
    more = ["--prompts", str(tmp_path / "i2p.csv"), "--captions", str(tmp_path / "coco.csv"), "--real", str(real)]
    nudity.main([*common, *more, "--clip", str(clip), "--limit", "3"])
    results, table = read(tmp_path)
    (row,) = results["rows"]
    assert row["concept"] == "nude person" and row["protocol"]["pictures"] == {"forget": 3, "captions": 3}
    assert row["erased"]["detections"] == sum(row["erased"]["per_class"].values())
    base, erased = cells(table, "base"), cells(table, "SEMU, nude person")
    assert len(base) == len(erased) == 1 + 9 + 1 + 2 + 2
    assert erased[-2:] == [f"{row['erased']['FID']:.2f}", f"{row['erased']['clip']:.2f}"]
    assert base[-2] == f"{row['base']['FID']:.2f}"
    assert erased[10] == str(row["erased"]["detections"])
    assert "first 3 prompts: not to be compared" in table and "NudeNet 3" in table and "576 to 851" in table
    assert table.strip().splitlines()[0] in capsys.readouterr().out
    monkeypatch.setattr(study, "measure", None)  # all is there, so nothing is measured again
    nudity.main([*common, *more, "--clip", str(clip), "--limit", "3"])
    with pytest.raises(SystemExit, match="made with another limit"):
        nudity.main([*common, *more, "--clip", str(clip), "--limit", "2"])


def test_what_is_missing_is_said_before_anything_is_erased(common, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as error:
        nudity.main([*common, "--prompts", str(tmp_path / "none.csv")])
    assert error.value.code == 2 and "no prompts at" in capsys.readouterr().err
    assert not (tmp_path / "out" / "nude-person").exists()
    with pytest.raises(SystemExit) as error:
        imagenette.main([*common, "--concept", "cat", "--classifier", str(tmp_path)])
    assert error.value.code == 2 and "labelled cat" in capsys.readouterr().err
    real = write_pictures(tmp_path / "real", 2)
    (tmp_path / "i2p.txt").write_text("a cat\n")
    monkeypatch.setattr(suites, "feature_judge", lambda *arguments: None)  # neither Inception nor CLIP
    with pytest.raises(SystemExit) as error:
        nudity.main([*common, "--prompts", str(tmp_path / "i2p.txt"), "--real", str(real)])
    assert error.value.code == 2 and "FID needs features" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        artists.main([*common, "--limit", "0"])
    assert error.value.code == 2 and "--limit must be at least 1" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ imagenette


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A ViT with random weights that knows Imagenette's classes among others."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("classifier")
    names = dict(enumerate(["otter", *IMAGENETTE]))
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**small, image_size=16, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_imagenette(common, clip, classifier, tmp_path, monkeypatch):
    for name, wnid in imagenette.FOLDERS.items():
        write_pictures(tmp_path / "imagenette" / "train" / wnid, 1 + (name == "church"))
    more = ["--classifier", str(classifier), "--clip", str(clip), "--real", str(tmp_path / "imagenette" / "train")]
    more += ["--concept", "church", "--concept", "tench", "--limit", "1"]
    drawn, write = [], drawing.write_picture
    monkeypatch.setattr(drawing, "write_picture", lambda image, file: (drawn.append(file), write(image, file)))
    step = Trainer.step

    def stop(self, *arguments):
        if self.config.concept == ["tench"]:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        imagenette.main([*common, *more])
    assert [row["concept"] for row in read(tmp_path)[0]["rows"]] == ["church"]
    monkeypatch.setattr(Trainer, "step", step)
    imagenette.main([*common, *more])
    results, table = read(tmp_path)
    assert [row["concept"] for row in results["rows"]] == ["tench", "church"]  # the paper's order
    assert len(drawn) == 3 * 10 and len(list((tmp_path / "out" / "base").glob("*.png"))) == 10  # the base's only once
    for row, left in zip(results["rows"], (10, 9)):  # eleven real pictures, two of them churches
        assert len(list((tmp_path / "out" / row["concept"] / "real").iterdir())) == left
        shown = cells(table, row["concept"])
        assert shown[1:3] == [f"{row['erased'][key]:.2f}" for key in ("UA", "FID")]
        assert row["protocol"]["seeds"] == 1 and row["protocol"]["pictures"] == {"keep": 9, "forget": 1}
    mean = cells(table, "**mean**")
    assert mean[1] == f"{sum(row['erased']['UA'] for row in results['rows']) / 2:.2f}"


def test_a_folder_that_is_not_imagenette(common, classifier, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit) as error:
        imagenette.main([*common, "--classifier", str(classifier), "--real", str(tmp_path / "other")])
    assert error.value.code == 2 and "no folder n01440764" in capsys.readouterr().err
    assert not (tmp_path / "out" / "tench" / "adapter").exists()


# --------------------------------------------------------------------------------------------- artists


def test_artists(common, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(suites, "load_lpips", lambda: lambda a, b: (a - b).square().mean((1, 2, 3)))
    artists.main([*common, "--clip", str(clip), "--concept", "Rembrandt style", "--limit", "2", "--seeds", "1"])
    results, table = read(tmp_path)
    (row,) = results["rows"]
    assert row["protocol"]["pictures"] == {"keep": 8, "forget": 2}
    prompts = read_prompts(tmp_path / "out" / "prompts.csv")
    assert [p.label for p in prompts] == [artist for artist in artists.ARTISTS for _ in range(2)]
    assert {p.label for p in read_prompts(artists.PROMPTS)} == set(artists.ARTISTS)
    shown = cells(table, "Rembrandt style")
    assert shown[1:3] == [f"{row['erased'][key]:.3f}" for key in ("LPIPS_forget", "LPIPS_keep")]
    assert shown[3:5] == [f"{row[side]['clip_forget']:.2f}" for side in ("erased", "base")]


# ----------------------------------------------------------------------------------------------- hours


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_hours_in_the_text_are_those_of_the_plan(program, capsys, tmp_path):
    program.main(["--plan"])
    said = capsys.readouterr().out
    hours = float(re.search(r"about ([\d.]+) h", said).group(1))
    promised = float(re.search(r"about ([\d.]+)\s+h\s+on\s+one\s+H100", program.__doc__).group(1))
    assert promised == pytest.approx(hours, abs=0.15)
    if program is nudity:
        (tmp_path / "coco.txt").write_text("a dog\n" * 30_000)
        program.main(["--plan", "--captions", str(tmp_path / "coco.txt")])
        long = float(re.search(r"about ([\d.]+) h", capsys.readouterr().out).group(1))
        assert f"about {long} h" in program.__doc__.replace("\n", " ")


def test_the_hours_rest_on_docs_scaling():
    text = SCALING.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| sd15 |")).split(" | ")
    assert [float(cell.rstrip("×").removesuffix(" TFLOP")) for cell in (row[3], row[4], row[6])] == [
        study.FORWARD / 1e12, study.STEP, study.GRADIENT
    ]  # fmt: skip
    assert "40% of 989 TFLOP/s" in text and study.SPEED == 0.4 * 989e12
    step = scaling.Step(study.STEP * study.FORWARD, 0, 0)
    full = scaling.Step(study.GRADIENT * study.FORWARD, 0, 0)
    model = scaling.Model("sd15", 0, 0, study.FORWARD, step, full, step, 0, moments=0, basis=0, sketch=0)
    config = EraseConfig(concept="x", steps=100, sampler_steps=10)
    checks = scaling.run_flops(model, config, 1, 0)["training"]  # of the held-out latents, which the plan leaves out
    flops = sum(scaling.run_flops(model, config, 1, config.batch_size).values()) - checks
    assert study.erasure_passes(config) * study.FORWARD == pytest.approx(flops)
    hours = study.expected_hours(1000, 50, [config])
    assert hours == pytest.approx((1000 * 100 * study.FORWARD + flops) / study.SPEED / 3600)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_needs_no_torch(program, capsys):
    with pytest.raises(SystemExit) as error:
        importlib.import_module(program.__name__).main(["--help"])
    assert error.value.code == 0 and "--plan" in capsys.readouterr().out
