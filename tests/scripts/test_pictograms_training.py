"""The training loop of the embedded model: an interrupted stage goes on where it stopped."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from pictograms_training import STATE, averaged, fit  # noqa: E402

STEPS = 20


def small_net(seed):
    """Linear layers and a BatchNorm, with one frozen weight."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    return model


def run(folder, stop=None):
    """A small net after `STEPS` steps, or up to an interrupt; its state is saved after every step."""
    model = small_net(0)

    def loss(step):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (model(x) - x[:, :2]).square().mean()

    args = SimpleNamespace(accelerator=Accelerator(cpu=True), workdir=folder, save_every=-1)
    return fit("stage", model, loss, args, STEPS, 1e-2)


def test_an_interrupted_stage_ends_like_a_whole_one(tmp_path):
    whole = run(tmp_path / "whole").state_dict()
    for stop in (3, 11):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", stop)
    resumed = run(tmp_path / "parts").state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    assert {file.name for file in (tmp_path / "parts" / "stage").iterdir()} == {STATE, "loss.txt"}


def test_the_average_of_a_stage_can_be_read(tmp_path):
    whole, other = run(tmp_path), small_net(1)
    averaged(tmp_path / "stage", other)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), whole.state_dict().values()))
    with pytest.raises(ValueError, match="averages 5 weights, the model trains 6"):
        averaged(tmp_path / "stage", small_net(1).requires_grad_(True))
