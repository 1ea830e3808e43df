"""Lasting rounds: training is longer in bringing the concept back, and a run can be interrupted in them."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from tiny import interrupted, quick

from semu_diffusion import EraseConfig, load_pipeline
from semu_diffusion.attacks.target import Target
from semu_diffusion.diffusion.concepts import TEMPLATES
from semu_diffusion.diffusion.lasting import PUSH, strengths
from semu_diffusion.diffusion.states import FORGET, States
from semu_diffusion.diffusion.trainer import Trainer

STEPS = "semu_diffusion.diffusion.trainer.STEPS"
FULL = {"anchor": "", "near": 0.0, "target_modules": "all", "latents": 8, "steps": 30, "stop_at": -9.0, "compress": 1.0}


def test_the_push_grows_with_what_shows():
    shown = torch.tensor([0.0, 0.1, 0.25, 0.4, 1.0])
    torch.testing.assert_close(strengths(0.25, shown), torch.tensor([0.25, 0.25, (0.25 + PUSH) / 2, PUSH, PUSH]))
    assert torch.equal(strengths(9.0, shown), torch.full((5,), 9.0))  # who asks for more gets more


def test_what_shows_is_known_of_each_record(tiny_model, monkeypatch):
    """Every second latent follows the concept: its states show more and more of it, and no other ones do."""
    seen, init = [], Trainer.__init__

    def watch(self, family, config, states, *args, **kwargs):
        seen.append(states)
        init(self, family, config, states, *args, **kwargs)

    monkeypatch.setattr(Trainer, "__init__", watch)
    quick(tiny_model, steps=1)
    states: States = seen[0]
    forget = states.shown[states.kind == FORGET].reshape(4, 6)  # sampler steps, latents
    expected = torch.tensor([0.125, 0.375, 0.625, 0.875])
    assert torch.equal(forget[:, ::2], expected[:, None].expand(4, 3)) and not forget[:, 1::2].any()
    first = 6 * 4 * 2  # the concept's records, each with that of the empty prompt; then what is kept
    assert not states.shown[states.shown.shape[0] - first :].any()


# ----------------------------------------------------------------------------------------- what it is for


def steps_to_relearn(run, model, most=200) -> int:
    """Adam steps on all weights, towards the untouched model's answers on its own noised pictures of the concept, until
    half of the way back to them is made up on other noise."""
    target, base = Target(run.pipe), Target(load_pipeline(str(model)))
    prompts = [TEMPLATES[0][0].format(a="a cigarette", style="neon")] * 8
    pictures = base.pictures(prompts, list(range(8)), 4, 3.0)
    texts = {p: base.encode(base.ids([p])).detach() for p in (prompts[0], "")}
    ask = lambda own, noised, prompt: own.family.predict(  # noqa: E731
        noised.x, noised.t, {"text": texts[prompt].expand(len(noised.x), -1, -1)}
    )
    look = base.noised(pictures, 32, torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, other = ask(base, look, prompts[0]), ask(base, look, "")
    tuned = target.with_model(copy.deepcopy(target.model).requires_grad_(True))
    optimizer, generator = torch.optim.Adam(tuned.model.parameters(), 1e-4), torch.Generator().manual_seed(2)
    for step in range(most):
        with torch.no_grad():
            way = wanted - other
            back = ((ask(tuned, look, prompts[0]) - other) * way).sum() / way.square().sum()
        if back >= 0.5:
            return step
        noised = base.noised(pictures, 8, generator)
        with torch.no_grad():
            truth = ask(base, noised, prompts[0])
        optimizer.zero_grad()
        (ask(tuned, noised, prompts[0]) - truth).square().mean().backward()
        optimizer.step()
    return most


def test_relearning_falls_short_after_a_lasting_round_and_not_without(tiny_model, monkeypatch):
    monkeypatch.setattr(STEPS, 60)
    plain, lasting = quick(tiny_model, **FULL), quick(tiny_model, **FULL, lasting=1)
    short = steps_to_relearn(plain, tiny_model)
    assert short > 0 and steps_to_relearn(lasting, tiny_model, most=2 * short) == 2 * short


# ----------------------------------------------------------------------------------------- runs as a whole


def test_lasting_rounds_come_after_adversarial_ones(tiny_model, monkeypatch):
    monkeypatch.setattr(STEPS, 2)
    far, step = [], Trainer.step

    def watch(self, *arguments):
        far.append(self.far)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", watch)
    progress = quick(tiny_model, steps=3, adversarial=1, lasting=2).progress
    assert progress.attacks == [3, 5, 7] and far == [False] * 5 + [True] * 4


def test_resuming_at_every_step_gives_the_same(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(STEPS, 2)
    options = {"steps": 2, "lasting": 1, "save_every": 1}
    quick(tiny_model, output=tmp_path / "whole", **options)
    interrupted(monkeypatch, 4, tiny_model, output=tmp_path / "out", **options)
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out", "whole"))
    assert first == second
    assert any(v.any() for k, v in load_file(tmp_path / "out" / "adapter_model.safetensors").items() if "semu_R" in k)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"lasting": -1}, "lasting must not be negative"),
        ({"lasting": 1, "keep_weight": 0}, "something that holds the rest"),
        ({"lasting": 1, "keep_weight": 0, "retain_images": "folder", "beta": 0}, "something that holds the rest"),
    ],
)
def test_it_is_refused_where_it_makes_no_sense(options, says):
    with pytest.raises(ValueError, match=says):
        EraseConfig(concept="cigarette", **options)


def test_given_pictures_are_enough_to_hold_the_rest():
    EraseConfig(concept="cigarette", lasting=1, keep_weight=0, retain_images="folder")
