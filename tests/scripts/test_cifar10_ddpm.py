"""The builder of the class-conditional DDPM on a few pictures: stages, resuming, what it writes, and that it erases."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from semu_diffusion import draw, erase, load_pipeline
from semu_diffusion.classification import Examples, PictureJudge, fit, load_classifier, save_classifier
from semu_diffusion.metrics.fid import _fid_compute

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import build_cifar10_ddpm as builder  # noqa: E402
from pictograms_training import STATE, read_state  # noqa: E402

NAMES = ["red", "green", "blue"]
STEPS = 14


def coloured(count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Pictures (N, 32, 32, 3) of one colour each with noise, and the colour's number."""
    rng = np.random.default_rng(seed)
    labels = [k % 3 for k in range(count)]
    pictures = rng.integers(0, 60, (count, 32, 32, 3))
    for picture, label in zip(pictures, labels):
        picture[..., label] += 180
    return pictures.astype(np.uint8), labels


def write_parquet(file: Path, count: int, seed: int) -> None:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    pictures, labels = coloured(count, seed)
    rows = {"img": [Image.fromarray(p) for p in pictures], "label": labels}
    Dataset.from_dict(rows, Features({"img": ImageFeature(), "label": ClassLabel(names=NAMES)})).to_parquet(file)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddpm")
    (folder / "data").mkdir()
    for name, count, seed in (("train", 60, 0), ("test", 12, 1)):
        write_parquet(folder / "data" / f"{name}.parquet", count, seed)
    pictures, labels = coloured(60, 0)
    examples = Examples(torch.from_numpy(pictures).permute(0, 3, 1, 2), torch.tensor(labels))
    classifier = fit(load_classifier("resnet18", 3, 3, 4), examples, epochs=14, batch_size=20)
    save_classifier(classifier, folder / "classifier")
    words = {"data": folder / "data", "workdir": folder / "work", "output": folder / "model", "batch_size": 6}
    words |= {"classifier": folder / "classifier", "pictures": 9, "sampler_steps": 3, "layers": 1, "save_every": -1}
    flags = [part for key, value in words.items() for part in (f"--{key}", str(value))]
    return [*flags, "--steps", str(STEPS), "--channels", "16", "32", "32"], folder


@pytest.fixture(scope="module")
def built(arguments):
    builder.main(arguments[0])
    return arguments[1]


def test_the_folder_is_a_pipeline_that_anyone_loads(built):
    from diffusers import DDIMPipeline

    pipe = DDIMPipeline.from_pretrained(built / "model")
    assert pipe.unet.config.num_class_embeds == 4 and pipe.scheduler.config.prediction_type == "v_prediction"
    assert json.loads((built / "model" / "vocabulary.json").read_text())["subjects"] == NAMES
    pictures = draw(load_pipeline(str(built / "model")), ["red", "", "2"], [1, 2, 3], steps=2, guidance=2.0)
    assert pictures.shape == (3, 3, 32, 32) and pictures.isfinite().all()
    stored = load_file(next((built / "model" / "unet").glob("*.safetensors")))
    assert {v.dtype for v in stored.values()} == {torch.float16}


def test_the_check_counts_what_the_classifier_names(built):
    scores = json.loads((built / "model" / "check.json").read_text())
    assert scores["real_accuracy"] == 100.0 and set(scores["classes"]) == set(NAMES)
    assert scores["accuracy"] == pytest.approx(sum(scores["classes"].values()) / 3)
    assert scores["inception"] or scores["no_inception"]
    card = (built / "model" / "README.md").read_text()
    assert "0 red, 1 green, 2 blue" in card and "60 pictures" in card and f"{scores['fid']:.2f} drawn" in card
    assert Image.open(built / "model" / "sheet.png").size == (2 * 3 * 32, 2 * 3 * 32)
    judge = PictureJudge(load_classifier(str(built / "classifier")))
    real, test = (torch.from_numpy(coloured(*k)[0]).permute(0, 3, 1, 2) / 255 for k in ((60, 0), (12, 1)))
    with torch.no_grad():
        by_hand = _fid_compute(judge.features(real), judge.features(test[:9]))
    assert scores["fid_test"] == pytest.approx(by_hand.item(), rel=1e-3, abs=1e-4)


def test_a_stopped_training_goes_on(built, arguments, tmp_path, monkeypatch):
    whole = read_state(built / "work" / "unet")[1]
    again = [*arguments[0], "--workdir", str(tmp_path), "--stage", "data", "--stage", "unet"]
    step, calls = builder.indices, []

    def stop(*a):
        calls.append(a)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(*a)

    monkeypatch.setattr(builder, "indices", stop)
    with pytest.raises(KeyboardInterrupt):
        builder.main(again)
    assert read_state(tmp_path / "unet")[0]["step"] == 5
    builder.main(again)
    resumed = read_state(tmp_path / "unet")[1]
    assert len(calls) == 6 + STEPS - 5
    for group, tensors in whole.items():
        assert all(torch.equal(resumed[group][k], v) for k, v in tensors.items())
    assert (tmp_path / "unet" / STATE).is_file()


def test_labels_are_dropped_a_tenth_of_the_time(built, arguments, tmp_path, monkeypatch):
    seen = []
    own = builder.make_unet

    def watched(*a):
        model = own(*a)
        model.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["class_labels"]), with_kwargs=True)
        return model

    monkeypatch.setattr(builder, "make_unet", watched)
    more = ["--workdir", str(tmp_path), "--batch_size", "60", "--steps", "5", "--stage", "data", "--stage", "unet"]
    builder.main([*arguments[0], *more, "--channels", "16", "16"])
    labels = torch.cat(seen)
    assert set(labels.tolist()) == {0, 1, 2, 3} and 0.05 < (labels == 3).double().mean() < 0.16  # 300 draws


def test_its_loss_is_the_velocitys(built):
    scheduler = builder.make_scheduler()
    x, noise, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([10, 900])
    a = scheduler.alphas_cumprod[t][:, None, None, None]
    v = scheduler.get_velocity(x, noise, t)
    torch.testing.assert_close(v, a.sqrt() * noise - (1 - a).sqrt() * x)
    torch.testing.assert_close(a.sqrt() * scheduler.add_noise(x, noise, t) - (1 - a).sqrt() * v, x)


def test_a_class_is_erased_by_name(built, tmp_path):
    options = {"geometry": "euclidean", "latents": 2, "keep_latents": 2, "sampler_steps": 2, "steps": 2}
    erase(str(built / "model"), "green", tmp_path / "out", **options, batch_size=2, max_rank=2)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_channels_that_the_norms_cannot_split(capsys):
    with pytest.raises(SystemExit) as error:
        builder.parse_args(["--channels", "32", "40"])
    assert error.value.code == 2 and "multiples of 16" in capsys.readouterr().err
