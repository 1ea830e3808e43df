"""The pictograms suite draws a distilled model as its own pipeline does, and all others as the suite says."""

from types import SimpleNamespace

import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler
from tiny_families import load_family

from semu_diffusion.evaluation.suites import pictograms


def test_a_distilled_model_is_drawn_in_its_own_way(monkeypatch, family_folder):
    seen, pipe = [], load_family(family_folder("sd1"))

    def draw(pipe, prompts, seeds, steps, guidance, *rest):
        seen.append((steps, guidance))
        return torch.zeros(len(prompts), 3, 64, 64)

    def evaluate(base, erased, *rest):
        erased(["a cat"], [0])
        return {"protocol": {}}, {"keep": SimpleNamespace(base=torch.zeros(1, 3, 64, 64), cells=[])}

    monkeypatch.setattr(pictograms, "draw_together", draw)
    monkeypatch.setattr(pictograms, "evaluate", evaluate)
    config = pipe.scheduler.config
    for scheduler, own in (
        (pipe.scheduler, (10, 3.0)),
        (EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing"), (4, 0.0)),
        (LCMScheduler.from_config(config), (4, 1.0)),
    ):
        pipe.scheduler = scheduler
        report, _ = pictograms.run_pictograms(pipe, ["cat"])
        assert seen[-1] == own == (report["protocol"]["steps"], report["protocol"]["guidance"])
