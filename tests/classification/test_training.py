"""Training a classifier: a stopped run goes on as if it had not been, and the faster ways learn the same."""

import copy

import pytest
import torch
from classifiers import Net, pictures

from semu_diffusion.classification import comparison, fit, predict
from semu_diffusion.classification.data import shifted
from semu_diffusion.classification.models import ResNet18

HOW = {"epochs": 4, "batch_size": 16, "augment": shifted, "seed": 3}


@pytest.fixture(scope="module")
def train():
    return pictures(80, 0)


def fresh() -> Net:
    torch.manual_seed(0)
    return Net()


class Stopped(Exception):
    pass


def stop_after(epochs: int):
    def report(row):
        if row["epoch"] == epochs:
            raise Stopped

    return report


@pytest.mark.parametrize("how", [{}, {"bf16": True, "channels_last": True}])
def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(tmp_path, train, how):
    whole = fit(fresh(), train, **HOW, **how).state_dict()  # dropout, augmentation, momentum and rate all matter
    file = tmp_path / "new folder" / "run.safetensors"
    for epochs in (1, 3):
        with pytest.raises(Stopped):
            fit(fresh(), train, **HOW, **how, checkpoint=file, report=stop_after(epochs))
    rows = []
    again = fit(fresh(), train, **HOW, **how, checkpoint=file, report=rows.append)
    assert [row["epoch"] for row in rows] == [4]
    assert all(torch.equal(v, whole[k]) for k, v in again.state_dict().items())
    assert {f.name for f in file.parent.iterdir()} == {"run.safetensors"}


def test_a_finished_run_is_only_read(tmp_path, train):
    done = fit(fresh(), train, **HOW, checkpoint=tmp_path / "run.safetensors").state_dict()
    again = fit(fresh(), train, **HOW, checkpoint=tmp_path / "run.safetensors", report=stop_after(1))
    assert all(torch.equal(v, done[k]) for k, v in again.state_dict().items())


def test_a_checkpoint_of_another_run_or_another_file_is_refused(tmp_path, train):
    file = tmp_path / "run.safetensors"
    fit(fresh(), train, **HOW, checkpoint=file)
    for change in ({"epochs": 5}, {"seed": 4}, {"bf16": True}, {"lr": 0.1}):
        with pytest.raises(ValueError, match="is of another run.*remove it"):
            fit(fresh(), train, **{**HOW, **change}, checkpoint=file)
    with pytest.raises(ValueError, match="another run"):
        fit(fresh(), pictures(96, 0), **HOW, checkpoint=file)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is damaged"):
        fit(fresh(), train, **HOW, checkpoint=file)


def test_bfloat16_is_of_the_network_alone(train):
    model, seen = fresh(), set()
    model.conv.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    fit(model, train, **HOW, bf16=True)
    assert seen == {torch.bfloat16} and {p.dtype for p in model.parameters()} == {torch.float32}
    exact = fit(fresh(), train, **HOW)
    assert (predict(model, train).argmax(1) == predict(exact, train).argmax(1)).float().mean() > 0.9


def test_channels_last_changes_the_layout_and_not_what_is_learned():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 3, 8, 8, generator=g), torch.randint(4, (32,), generator=g)
    torch.manual_seed(0)
    one = ResNet18(4, 3, 4)
    other, seen = copy.deepcopy(one), []
    other.conv1.register_forward_hook(
        lambda module, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    one, other = fit(one, (x, y), 1, batch_size=16), fit(other, (x, y), 1, batch_size=16, channels_last=True)
    assert all(seen) and len(seen) == 2
    assert all(torch.allclose(v, one.state_dict()[k], atol=1e-4) for k, v in other.state_dict().items())


def test_classify_trains_in_bfloat16_when_it_is_told_to(semu, tmp_path, monkeypatch):
    asked, fit_ = [], comparison.fit

    def watched(model, data, **how):
        asked.append((how["bf16"], how["channels_last"]))
        return fit_(model, data, **how)

    monkeypatch.setattr(comparison, "fit", watched)
    quick = ["--train-epochs", "1", "--epochs", "1", "--width", "2", "--shadow-pairs", "0", "--forget-class", "3"]
    for flags in ([], ["--bf16"]):
        status, _, err = semu("classify", *quick, "--output", tmp_path / str(len(flags)), "--quiet", *flags)
        assert status == 0, err
    assert asked == [(False, False)] * 2 + [(True, True)] * 2  # original and Retrain
