"""The distilled stand-in: what its step is held against, and that its folder is known for what it is."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import build_pictograms_turbo as turbo  # noqa: E402

from semu_diffusion.diffusion.families import Sampler, sampler_of  # noqa: E402


@pytest.fixture
def args(assets, tmp_path, monkeypatch):
    monkeypatch.setattr(turbo, "TOGETHER", 2)
    (tmp_path / "work").mkdir()
    return SimpleNamespace(
        accelerator=Accelerator(cpu=True), device="cpu", workdir=tmp_path / "work", output=tmp_path / "model",
        teacher=assets, guidance=1.0, student_steps=1, substeps=1, trajectories=2, steps=1, batch=2, lr=1e-3, seed=0,
        save_every=1e9, seeds=1,
    )  # fmt: skip


def first_loss(args):
    turbo.stage_trajectories(args)
    turbo.stage_distil(args)
    return float((args.workdir / "distil" / "loss.txt").read_text().split()[-1])


def test_without_guidance_one_step_of_the_teacher_is_that_of_the_student(args):
    """DPM-Solver's first step is Euler's, so there is nothing to learn; then the folder tells its own sampler."""
    assert first_loss(args) == 0
    states, texts = turbo.load_trajectories(args.workdir / "trajectories")
    assert states.shape == (2, 2, 12, 8, 8) and len(texts) == 2
    before = (args.workdir / "trajectories" / "0000.safetensors").stat().st_mtime_ns
    turbo.stage_trajectories(args)  # goes on where it stopped
    assert (args.workdir / "trajectories" / "0000.safetensors").stat().st_mtime_ns == before
    turbo.stage_export(args)
    pipe = turbo.StableDiffusionPipeline.from_pretrained(args.output)
    assert sampler_of(pipe) == Sampler(4, 0.0, few=True)  # by its scheduler: the folder is called "model"
    assert (args.output / "vocabulary.json").is_file() and torch.isfinite(pipe.unet.conv_in.weight).all()


def test_guidance_is_to_be_learned(args):
    args.guidance = 3.0
    assert first_loss(args) > 1e-3
