"""The peers in eval/peers/classification: what defines each method, and that none cheats without retain data."""

import copy

import pytest
import torch
from classifiers import Net
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from eval.peers.classification import PEERS, Budget, bill
from eval.peers.classification.common import fisher, gradient, hits, logits
from eval.peers.classification.retrain import reset
from eval.peers.classification.salun import saliency_mask
from eval.peers.classification.scrub import distance
from eval.peers.classification.sfron import remain_mask
from semu_diffusion.adapter.weights import semu_layers
from semu_diffusion.classification import class_split, fit, predict, random_split
from semu_diffusion.classification.data import labels_of
from semu_diffusion.metrics.membership import true_confidence

ALONE = {"GA", "RL", "SalUn", "SEMU", "SEMU remain"}
BUDGET = Budget(examples=600, batch_size=32)


@pytest.fixture
def net(classifier):
    return copy.deepcopy(classifier)


@pytest.fixture(scope="module")
def parts(examples):
    split = random_split(examples.y, 0.2, seed=1)
    return Subset(examples, split.forget), Subset(examples, split.retain)


class Untouchable(Dataset):
    """A data set that nobody may look into."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        raise AssertionError("the data were looked at")


def loss_on(model, data) -> float:
    return nn.functional.cross_entropy(predict(model, data), labels_of(data)).item()


def state(model) -> dict:
    return copy.deepcopy(model.state_dict())


def test_all_methods_are_there_and_say_what_they_need():
    names = {"Retrain", "FT", "GA", "RL", "l1-sparse", "SalUn", "SSD", "SFR-on", "SCRUB", "Bad Teacher"}
    assert set(PEERS) == names | {"SEMU", "SEMU remain"}
    assert {name for name, peer in PEERS.items() if peer.alone} == ALONE
    assert all(peer.paper and peer.needs and peer.grid for peer in PEERS.values())
    assert len({len(peer.grid) for name, peer in PEERS.items() if name != "Retrain"}) == 1  # the same search for all


@pytest.mark.parametrize("name", sorted(set(PEERS) - ALONE))
def test_methods_that_need_retain_data_say_so(net, parts, name):
    before = state(net)
    with pytest.raises(ValueError, match=f"{name} needs the remaining data.*the forget set alone is not enough"):
        PEERS[name](net, parts[0], None, BUDGET)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(PEERS)))
def test_every_method_is_reproducible_and_leaves_a_finite_model_in_eval_mode(classifier, parts, name):
    retain = None if name in ALONE else parts[1]
    results = []
    for _ in range(2):
        hyper = dict(epochs=1) if name == "Retrain" else PEERS[name].grid[0]
        model = PEERS[name](copy.deepcopy(classifier), parts[0], retain, BUDGET, 3, **hyper)
        assert not any(m.training for m in model.modules())
        results.append(predict(model, parts[0]))
    assert torch.equal(*results) and results[0].isfinite().all()


# --- one property per method -------------------------------------------------------------------------------------


def test_retrain_never_sees_the_forget_set(net, classifier, examples, parts):
    model = PEERS["Retrain"](net, Untouchable(), parts[1], BUDGET, 5, epochs=3)
    again = PEERS["Retrain"](Net(), Untouchable(), parts[1], BUDGET, 5, epochs=3)  # whatever the weights were
    assert torch.equal(predict(model, examples), predict(again, examples)) and hits(model, parts[1]) > 0.8
    reset(again, 5)
    assert torch.equal(again.bn.weight, torch.ones(8)) and not torch.equal(again.head.weight, model.head.weight)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="cannot be drawn anew"):
        reset(Odd(), 0)


@pytest.mark.parametrize("name", ["FT", "l1-sparse"])
def test_fine_tuning_never_sees_the_forget_set(net, parts, name):
    before = loss_on(net, parts[1])
    PEERS[name](net, Untouchable(), parts[1], BUDGET, 0, lr=0.01)
    assert loss_on(net, parts[1]) < (before if name == "FT" else 2 * before)


def test_l1_drives_weights_towards_zero_and_fades(classifier, parts):
    size = []
    for alpha in (0.0, 1e-3, 1e-2):
        model = PEERS["l1-sparse"](copy.deepcopy(classifier), Untouchable(), parts[1], BUDGET, 0, lr=0.01, alpha=alpha)
        size.append(sum(p.abs().sum() for p in model.parameters()).item())
    assert size[0] > size[1] > size[2]
    plain = PEERS["FT"](copy.deepcopy(classifier), Untouchable(), parts[1], BUDGET, 0, lr=0.01)
    assert sum(p.abs().sum() for p in plain.parameters()).item() == pytest.approx(size[0], rel=1e-6)


@pytest.mark.parametrize("batchnorm", ["train", "eval"])
def test_gradient_ascent_raises_the_forget_loss_until_it_is_like_unseen(classifier, parts, batchnorm):
    for unseen, examples, lr in ((0.6, 4000, 0.3), (None, 200, 0.01)):
        budget = Budget(examples, batch_size=32, unseen=unseen)
        model = PEERS["GA"](copy.deepcopy(classifier), parts[0], None, budget, 0, lr=lr, batchnorm=batchnorm)
        assert loss_on(model, parts[0]) > loss_on(classifier, parts[0])
        if unseen:
            assert hits(model, parts[0]) <= unseen
        same = torch.equal(model.bn.running_mean, classifier.bn.running_mean)
        assert same == (batchnorm == "eval")


@pytest.mark.parametrize("epochs", range(1, 7))
def test_training_works_for_any_number_of_steps(examples, epochs):
    assert (
        predict(fit(Net(), Subset(examples, range(32)), epochs, batch_size=32), Subset(examples, [0])).isfinite().all()
    )


def test_a_loss_that_is_not_finite_is_said(net, parts):
    with pytest.raises(FloatingPointError, match="lower lr"):
        PEERS["GA"](net, parts[0], None, Budget(4000, 32), 0, lr=1e6, batchnorm="eval")


def test_random_labels_forget_and_retain_data_keep(classifier, parts):
    kept = []
    for retain in (None, parts[1]):
        model = PEERS["RL"](copy.deepcopy(classifier), parts[0], retain, Budget(2000, 32), 0, lr=0.01)
        assert loss_on(model, parts[0]) > 2 * loss_on(classifier, parts[0])
        kept.append(loss_on(model, parts[1]))
    assert kept[1] < kept[0]


def test_whole_classes_are_forgotten_until_none_is_named(net, examples):
    split = class_split(examples.y, 2)
    forget, budget = Subset(examples, split.forget), Budget(20_000, 32, whole_class=True)
    PEERS["RL"](net, forget, None, budget, 0, lr=0.01, batchnorm="eval")
    assert hits(net, forget) <= 0.01 < hits(net, Subset(examples, split.retain))


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_salun_moves_exactly_the_salient_weights(net, classifier, parts, share):
    mask = saliency_mask(net, parts[0], share)
    total = sum(m.numel() for m in mask)
    assert sum(int(m.sum()) for m in mask) == round(share * total)
    grads = gradient(net, parts[0], 16)
    inside = min(g[m].abs().min() for g, m in zip(grads, mask) if m.any())
    assert inside >= max(g[~m].abs().max() for g, m in zip(grads, mask) if not m.all()) * (1 - 1e-4)
    PEERS["SalUn"](net, *parts, BUDGET, 0, lr=0.01, share=share)
    moved = [p != q for p, q in zip(net.parameters(), classifier.parameters())]
    assert not any((m & ~keep).any() for m, keep in zip(moved, mask))
    assert sum(int(m.sum()) for m in moved) > 0.9 * share * total


def test_ssd_dampens_exactly_the_selected_weights_by_the_closed_form(net, classifier, examples, parts):
    alpha, damping = 1.5, 0.8
    PEERS["SSD"](net, *parts, BUDGET, 0, alpha=alpha, damping=damping)
    I_f, I_D = fisher(classifier, parts[0]), fisher(classifier, ConcatDataset(parts))
    chosen = 0
    for new, old, f, d in zip(net.parameters(), classifier.parameters(), I_f, I_D):
        selected = f > alpha * d
        chosen += int(selected.sum())
        assert torch.equal(new[~selected], old[~selected])
        assert torch.allclose(new[selected], old[selected] * (damping * d / f)[selected].clamp(max=1))
    assert 0 < chosen < sum(p.numel() for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), classifier.buffers()))


def test_fisher_is_the_mean_square_of_batch_gradients(net, parts):
    one = Subset(parts[0], range(4))
    expected = [torch.zeros_like(p) for p in net.parameters()]
    for k in range(4):
        for e, g in zip(expected, gradient(net, Subset(one, [k]), 1)):
            e += g.square() / 4
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(fisher(net, one, 1), expected))


def test_sfron_forgets_inside_its_mask_and_descends_on_the_rest(classifier, parts):
    mask = remain_mask(classifier, *parts)
    share = sum(int(m.sum()) for m in mask) / sum(m.numel() for m in mask)
    assert 0 < share < 1
    losses = []
    for strength in (0.0, 10.0):
        model = PEERS["SFR-on"](copy.deepcopy(classifier), *parts, BUDGET, 0, lr=0.005, strength=strength)
        losses.append((loss_on(model, parts[0]), loss_on(model, parts[1])))
    assert losses[1][0] > losses[0][0] and losses[1][1] < 1


def test_scrub_moves_away_on_the_forget_set_and_stays_on_the_rest(classifier, parts):
    far = []
    for passes in (0, 2):
        model = PEERS["SCRUB"](copy.deepcopy(classifier), *parts, BUDGET, 0, lr=2e-3, max_passes=passes)
        far.append([distance(predict(model, d), predict(classifier, d)).item() for d in parts])
    assert far[1][0] > far[0][0] and far[1][0] > far[1][1]
    p, q = torch.randn(5, 3), torch.randn(5, 3)
    expected = (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()
    assert distance(q, p, 1.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_bad_teacher_makes_the_forget_set_a_guess(net, classifier, parts):
    PEERS["Bad Teacher"](net, *parts, Budget(8000, 32), 0, lr=3e-3, share=1.0)
    forget, retain = (true_confidence(predict(net, d), labels_of(d)).mean() for d in parts)
    assert forget < retain and forget < true_confidence(predict(classifier, parts[0]), labels_of(parts[0])).mean()


@pytest.mark.parametrize("name", ["SEMU", "SEMU remain"])
@pytest.mark.parametrize("alone", [True, False])
def test_semu_trains_only_a_small_part(net, classifier, parts, name, alone):
    budget = Budget(examples=6000, batch_size=32, unseen=0.7)
    PEERS[name](net, parts[0], None if alone else parts[1], budget, 0, lr=0.05, max_rank=4)
    assert hits(net, parts[0]) <= 0.7
    layers = semu_layers(net)
    cost = bill(net, state(classifier))
    assert cost["trained"] == sum(layer.r["default"] ** 2 for layer in layers.values())
    sizes = [(layer.semu_U["default"], layer.semu_R["default"], layer.semu_V["default"]) for layer in layers.values()]
    assert cost["bytes"] == 4 * sum(t.numel() for row in sizes for t in row)
    before = classifier.state_dict()
    assert all(torch.equal(v, before[k.replace(".base_layer", "")])
               for k, v in net.state_dict().items() if "semu_" not in k)  # fmt: skip


def test_the_bill_counts_what_moved(net, classifier):
    with torch.no_grad():
        net.head.weight[0, :3] += 1
        net.bn.running_mean[0] += 1
    assert bill(net, classifier.state_dict()) == {"trained": 3, "bytes": 16}


def test_the_budget_counts_passes():
    budget = Budget(examples=1000)
    assert budget.passes(300) == 3 and budget.passes(300, spent=500) == 1 and budget.passes(5000) == 1
    assert logits(nn.Linear(2, 3), torch.zeros(4, 2)).shape == (4, 3)
