"""Adversarial rounds: what the attack finds, that training then forgets it, and that a run can be interrupted there."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import QUICK, interrupted, quick
from tiny_families import build_family

from semu_diffusion import erase
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.diffusion.adversary import RATE, SHIFTS, Adversary
from semu_diffusion.diffusion.trainer import Trainer

ROUND = {
    "anchor": "",
    "strength": 0.75,
    "near": 0.0,
    "target_modules": "all",
    "latents": 8,
    "batch_size": 4,
    "steps": 20,
    "stop_at": -9.0,
    "compress": 1.0,
    "adversarial": 1,
}


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


def test_following_finds_the_nearest_text():
    """A model that only adds up its text: the shifts must bring the sum to the concept's."""
    own = adversary(0)
    wanted = own.text[3].sum() + 5.0

    def losses():
        text = own.shifted(own.text[:1].expand(SHIFTS, -1, -1), torch.arange(1, SHIFTS + 1))
        return (text.sum((1, 2)) - wanted).square()

    own.start(torch.Generator().manual_seed(0))
    before = losses()
    for _ in range(20):
        own.follow(own.pull(lambda: losses().sum()))
    assert own.shifts.shape == (SHIFTS, 4, 6) and not own.shifts.requires_grad
    assert (losses() < 0.1 * before).all()


def test_a_shift_that_is_not_in_the_batch_stays():
    own = adversary(3)
    before, size = own.shifts.clone(), own.size
    own.follow(own.pull(lambda: own.shifted(own.text[:1], torch.tensor([2])).sum()))
    assert torch.equal(own.shifts[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(own.shifts[1], before[1] - RATE * size)  # one step of the same length everywhere


def test_a_round_adds_shifts_to_those_before():
    own = adversary(3)
    before = own.shifts.clone()
    own.start(torch.Generator().manual_seed(0))
    assert len(own) == 3 + SHIFTS and torch.equal(own.shifts[:3], before)
    assert own.shifts[3:].abs().mean() < 0.1 * own.size


@pytest.fixture(scope="module")
def watched(tiny_model):
    """A run of one round; how far the answers under its last shifts are from the targets, after it and as if before."""
    seen, follow, train = {"pulled": []}, Trainer.follow, Trainer.train

    @torch.no_grad()
    def misses(self):
        targets, number = self.targets(self.forget), lambda k: torch.full((len(self.forget),), k)
        answers = [self.predict(self.family.model, self.forget, number(k + 1)) for k in range(len(self.adversary))]
        return sum((answer - targets).square().mean().item() for answer in answers)

    def watch_follow(self, batch):
        weights = {k: v.clone() for k, v in self.family.model.state_dict().items()}
        before, hit = self.adversary.shifts, batch.shift > 0
        old = self.distance(batch.forget[hit], batch.shift[hit]).item()
        follow(self, batch)
        seen["pulled"].append(self.distance(batch.forget[hit], batch.shift[hit]).item() / old)
        assert all(torch.equal(v, weights[k]) for k, v in self.family.model.state_dict().items())
        assert all(p.grad is None or not p.grad.any() for p in self.family.model.parameters())
        moved = (self.adversary.shifts != before).flatten(1).any(1).nonzero().flatten() + 1
        assert set(moved.tolist()) == set(batch.shift[hit].tolist())
        seen.setdefault("weights", weights)

    def watch_train(self, report):
        progress = train(self, report)
        seen["trained"], weights = misses(self), {k: v.clone() for k, v in self.family.model.state_dict().items()}
        self.family.model.load_state_dict(seen["weights"])
        seen["untrained"] = misses(self)
        self.family.model.load_state_dict(weights)
        return progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "follow", watch_follow)
        patch.setattr(Trainer, "train", watch_train)
        patch.setattr("semu_diffusion.diffusion.schedule.STEPS", 20)
        seen["run"] = quick(tiny_model, **ROUND)
    return seen


def test_steps_bring_the_concept_nearer(watched):
    """A signed step may overshoot now and then, on a model with random weights."""
    pulled = sorted(watched["pulled"])
    assert len(pulled) == 20 and pulled[17] < 1 and sum(pulled) / 20 < 0.9


def test_training_forgets_the_shifts_too(watched):
    assert watched["trained"] < 0.9 * watched["untrained"]


def test_rounds_begin_when_the_steps_before_are_over(watched, tiny_model, monkeypatch):
    progress = watched["run"].progress
    assert progress.attacks == [20] and progress.step == 40
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.STEPS", 3)
    again = quick(tiny_model, steps=4, adversarial=2).progress
    assert again.attacks == [4, 7] and again.step == 10


def test_a_round_begins_once_the_plain_prompts_are_forgotten(tiny_model, monkeypatch):
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.STEPS", 3)
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.CHECK_EVERY", 1)
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.COOLDOWN", 2)
    progress = quick(tiny_model, steps=9, stop_at=9.0, adversarial=1).progress
    assert progress.attacks == [2] and progress.step == 5  # and it takes its steps whatever is left


def test_no_round_without_being_asked(tiny_model):
    run = quick(tiny_model, steps=3)
    assert run.progress.attacks == [] and len(run.progress.history) == 3


# ----------------------------------------------------------------------------------------- runs as a whole


def test_resuming_at_every_step_gives_the_same(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("semu_diffusion.diffusion.schedule.STEPS", 2)
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
