"""Adversarial rounds: what the attack finds, that training then forgets it, and that a run can be interrupted there."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import QUICK, interrupted, quick
from tiny_families import build_family

from semu_diffusion import erase
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.diffusion.adversary import SHIFTS, Adversary
from semu_diffusion.diffusion.trainer import Trainer

ROUND = {"target_modules": "all", "latents": 16, "batch_size": 8, "steps": 20, "stop_at": -9.0, "adversarial": 1}


def adversary(count=3, empty_row=0):
    made = Adversary({"text": torch.randn(5, 4, 6)}, empty_row)
    made.shifts = torch.randn(count, 4, 6)
    return made


# ---------------------------------------------------------------------------------------------- bookkeeping


def test_number_k_adds_shift_k_and_0_nothing():
    own, text = adversary(), torch.randn(4, 4, 6)
    found = own.shifted(text, torch.tensor([0, 1, 3, 2]))
    expected = torch.stack([text[0], text[1] + own.shifts[0], text[2] + own.shifts[2], text[3] + own.shifts[1]])
    assert torch.equal(found, expected)


def test_even_shifts_stand_in_for_the_empty_prompt():
    prompt, number = torch.tensor([3, 3, 3, 4]), torch.tensor([0, 1, 2, 4])
    assert adversary(4).rows(prompt, number).tolist() == [3, 3, 0, 0]
    assert adversary(4, None).rows(prompt, number).tolist() == [3, 3, 3, 4]


def test_half_of_a_batch_is_shifted_once_there_are_shifts():
    generator = torch.Generator().manual_seed(0)
    assert adversary(0).pick(8, generator).tolist() == [0] * 8 and adversary(0).spread(3).tolist() == [0, 0, 0]
    drawn = torch.stack([adversary(3).pick(8, generator) for _ in range(50)])
    assert (drawn[:, ::2] == 0).all() and set(drawn[:, 1::2].flatten().tolist()) == {1, 2, 3}
    assert adversary(2).spread(5).tolist() == [0, 1, 2, 0, 1]


# -------------------------------------------------------------------------------------------------- attack


def test_the_attack_finds_the_nearest_text():
    """A model that only adds up its text: the shift must bring the sum to the concept's."""
    own = adversary(0)
    wanted = own.text[3].sum() + 5.0

    def loss(number):
        text = own.shifted(own.text[:1], number.expand(1))
        return (text.sum() - wanted).square()

    own.attack(loss, torch.Generator().manual_seed(0))
    assert own.shifts.shape == (SHIFTS, 4, 6) and not own.shifts.requires_grad
    start = (own.text[0].sum() - wanted).square()
    assert all(loss(torch.tensor(k + 1)) < 0.1 * start for k in range(SHIFTS))


@pytest.fixture(scope="module")
def watched(tiny_model):
    """A run of one round; how near the attacked model came to the concept, with and without the shifts found."""
    seen, attack, train = {}, Trainer.attack, Trainer.train

    @torch.no_grad()
    def distances(self):
        number = lambda k: torch.full((len(self.forget),), k)  # noqa: E731
        concept = self.states.concept[self.forget]
        answers = (self.predict(self.family.model, self.forget, number(k)) for k in range(len(self.adversary) + 1))
        return [(answer - concept).square().mean().item() for answer in answers]

    def watch_attack(self, progress):
        weights = {k: v.clone() for k, v in self.family.model.state_dict().items()}
        attack(self, progress)
        assert all(torch.equal(v, weights[k]) for k, v in self.family.model.state_dict().items())
        assert all(p.grad is None or not p.grad.any() for p in self.family.model.parameters())
        seen["attacked"], seen["left"] = distances(self), self.share_left(self.family.model)

    def watch_train(self, report):
        progress = train(self, report)
        seen["trained"], seen["left after"] = distances(self), self.share_left(self.family.model)
        return progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "attack", watch_attack)
        patch.setattr(Trainer, "train", watch_train)
        seen["run"] = quick(tiny_model, **ROUND)
    return seen


def test_shifts_bring_the_concept_back(watched):
    plain, *shifted = watched["attacked"]
    assert len(shifted) == SHIFTS and all(k < 0.9 * plain for k in shifted[::2])  # those that start from the prompt


def test_training_forgets_the_shifts_too(watched):
    before, after = (sum(watched[key][1:]) / SHIFTS for key in ("attacked", "trained"))
    assert after > 1.1 * before
    assert watched["left after"] < watched["left"]


def test_a_round_begins_when_the_steps_of_the_one_before_are_over(watched):
    progress = watched["run"].progress
    assert progress.attacks == [20] and progress.step == 40


def test_no_round_without_being_asked(tiny_model):
    run = quick(tiny_model, steps=3)
    assert run.progress.attacks == [] and len(run.progress.history) == 3


# ----------------------------------------------------------------------------------------- runs as a whole


def test_resuming_at_every_step_gives_the_same(tiny_model, tmp_path, monkeypatch):
    options = {"steps": 2, "adversarial": 2, "save_every": 1}
    whole = quick(tiny_model, output=tmp_path / "whole", **options)
    result = interrupted(monkeypatch, 6, tiny_model, output=tmp_path / "out", **options)
    assert result.progress.attacks == whole.progress.attacks == [2, 4]
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "whole"))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert any(v.any() for k, v in first.items() if k.endswith("semu_R"))


def test_a_model_without_text_states_is_refused(tmp_path):
    build_family("classes", tmp_path / "model")
    with pytest.raises(ValueError, match="--adversarial 0"):
        erase(str(tmp_path / "model"), "3", tmp_path / "out", **QUICK, adversarial=1)
    assert not (tmp_path / "out").exists()


def test_a_negative_number_of_rounds_is_refused(tiny_model):
    with pytest.raises(ValueError, match="adversarial must not be negative"):
        quick(tiny_model, adversarial=-1)


def test_the_adapter_has_the_same_layers_and_ranks(watched, tiny_model):
    plain = quick(tiny_model, **{**ROUND, "adversarial": 0, "steps": 1})
    ranks = lambda run: {k: layer.r["default"] for k, layer in semu_layers(run.pipe.unet).items()}  # noqa: E731
    assert ranks(plain) == ranks(watched["run"])
