"""Lasting rounds: training is longer in bringing the concept back, and a run can be interrupted in them."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import interrupted, quick
from torch import nn

from semu_diffusion import EraseConfig
from semu_diffusion.adapter import SemuConfig
from semu_diffusion.adapter.subspace import find_bases, install_bases
from semu_diffusion.adapter.weights import inject
from semu_diffusion.attacks.target import flatten
from semu_diffusion.diffusion.lasting import PUSH, strengths, weights
from semu_diffusion.diffusion.processes import ranks_of
from semu_diffusion.diffusion.states import ANCHOR, EMPTY, FORGET, KEEP, States
from semu_diffusion.diffusion.trainer import Trainer

STEPS = "semu_diffusion.diffusion.schedule.STEPS"


def test_the_push_grows_with_what_shows():
    shown = torch.tensor([0.0, 0.1, 0.25, 0.4, 1.0])
    torch.testing.assert_close(strengths(0.25, shown), torch.tensor([0.25, 0.25, (0.25 + PUSH) / 2, PUSH, PUSH]))
    assert torch.equal(strengths(9.0, shown), torch.full((5,), 9.0))  # who asks for more gets more


def test_a_far_target_counts_less(tmp_path):
    """The loss by hand, and in two halves as processes and parts of a step have it."""
    trainer = trained(tmp_path / "run", steps=1)
    s, index, answers = trainer.states, trainer.forget, trainer.predict(trainer.family.model, trainer.forget).detach()
    strength = strengths(0.25, s.shown[index])
    assert set(strength.tolist()) == {0.25, PUSH}
    target = s.anchor[index] - strength[:, None, None, None] * (s.concept[index] - s.anchor[index])
    by_hand = ((answers - target).square().mean((1, 2, 3)) / (1 + strength).sqrt()).mean()
    assert trainer.forgetting_loss(answers, index) != pytest.approx(by_hand.item())
    trainer.far = True
    assert trainer.forgetting_loss(answers, index) == pytest.approx(by_hand.item())
    half = len(index) // 2
    parts = [trainer.forgetting_loss(answers[k : k + half], index[k : k + half]) for k in (0, half)]
    assert sum(parts) / 2 == pytest.approx(trainer.forgetting_loss(answers[: 2 * half], index[: 2 * half]).item())
    torch.testing.assert_close(weights(torch.tensor([0.0, 3.0, 8.0])), torch.tensor([1.0, 1 / 2, 1 / 3]))


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


TEXT = 2 * torch.eye(4)  # the states of four prompts: the empty one, the concept, its anchor, another


def ask(net, x, t, conditions):
    return net(torch.cat([x.flatten(1), conditions["text"]], 1))[..., None, None]


def tiny_states(net, each=128) -> States:
    """Records of the four prompts; every second one of the concept shows it, and looks different for that."""
    x, kept = torch.randn(2, each, 8, 1, 1)
    x[::2, :4] += 2
    shown = 0.9 * (torch.arange(each) % 2 == 0)
    rows = [(FORGET, 1, x), (EMPTY, 0, x), (ANCHOR, 2, x), (KEEP, 3, kept), (EMPTY, 0, kept)]
    kind, prompt = (torch.tensor([row[k] for row in rows]).repeat_interleave(each) for k in (0, 1))
    xs, asked = torch.cat([x for *_, x in rows]), (prompt, torch.full_like(prompt, 2), torch.zeros_like(prompt))
    with torch.no_grad():
        answers = [ask(net, xs, None, {"text": TEXT[p]}) for p in asked]
    shown = torch.cat([shown] * 3 + [0 * shown] * 2)
    return States(xs, torch.zeros(len(xs)), prompt, kind, *answers, shown, {"text": TEXT})


def trained(folder, **options) -> Trainer:
    """The trainer of a net of three layers, erased."""
    folder.mkdir()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 8))
    accelerator = Accelerator(cpu=True)
    family = SimpleNamespace(model=net, call=ask, pipe=SimpleNamespace(config={}), ranks=ranks_of(accelerator))
    config = EraseConfig(concept="knife", strength=0.25, batch_size=16, stop_at=-9.0, beta=0.0, **options)
    trainer = Trainer(family, config, tiny_states(net), accelerator, folder)
    bases = find_bases(net, SemuConfig(max_rank=8), trainer.forgetting_gradient(net))
    inject(net, SemuConfig(ranks={name: basis.rank for name, basis in bases.items()}))
    install_bases(net, bases)
    trainer.train(lambda row: None)
    return trainer


def steps_to_relearn(trainer: Trainer, most: int = 500) -> int:
    """Adam steps on all weights towards the untouched net's answers where the concept shows, until half of the way
    from the anchor's answers to these is made up on records that were held out."""
    s, net = trainer.states, flatten(copy.deepcopy(trainer.family.model)).requires_grad_(True)
    learned, looked = (index[s.shown[index] > 0] for index in (trainer.forget, trainer.held_out))
    way, optimizer = s.concept[looked] - s.anchor[looked], torch.optim.Adam(net.parameters(), 3e-4)
    for step in range(most):
        with torch.no_grad():
            made_up = ask(net, s.x[looked], None, {"text": TEXT[s.prompt[looked]]}) - s.anchor[looked]
        if (made_up * way).sum() >= 0.5 * way.square().sum():
            return step
        optimizer.zero_grad()
        answers = ask(net, s.x[learned], None, {"text": TEXT[s.prompt[learned]]})
        (answers - s.concept[learned]).square().mean().backward()
        optimizer.step()
    return most


def test_relearning_falls_short_after_a_lasting_round_and_not_without(tmp_path, monkeypatch):
    """Nor after as many plain steps as both together."""
    monkeypatch.setattr(STEPS, 60)
    plain, long = trained(tmp_path / "plain", steps=60), trained(tmp_path / "long", steps=120)
    lasting = trained(tmp_path / "lasting", steps=60, lasting=1)
    soon = max(steps_to_relearn(plain), steps_to_relearn(long))
    assert 0 < soon < 100 and steps_to_relearn(lasting, most=2 * soon) == 2 * soon


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
    assert EraseConfig(concept="cigarette", lasting=1, keep_weight=0, retain_images="folder").lasting == 1
