"""Adapters added up and compared; the truth is the float64 sum of full matrices."""

import pytest
import torch
from models import build

from semu_diffusion.adapter.merging import (
    combine,
    combine_adapters,
    interference,
    overlap,
    replace_adapters,
    updates_of,
)
from semu_diffusion.adapter.updates import Update, cosine
from semu_diffusion.adapter.weights import SemuConfig, put_adapter, semu_layers


def update(m, n, r, seed=0, skew=False):
    """A random one; V skewed as in the remain geometry."""
    g = torch.Generator().manual_seed(seed)
    U, V = (torch.linalg.qr(torch.randn(k, r, generator=g)).Q for k in (m, n))
    return Update(U, torch.randn(r, r, generator=g), V * torch.rand(r, generator=g) if skew else V)


def full(u):
    return u.U.double() @ u.R.double() @ u.V.double().T


@pytest.mark.parametrize("ranks", [(2, 3), (1, 1, 1), (5, 6, 4)])
def test_combine_is_the_sum(ranks):
    updates = [update(10, 12, r, k, skew=k == 1) for k, r in enumerate(ranks)]
    weights = [1.0, -0.5, 2.0][: len(ranks)]
    both = combine(updates, weights)
    expected = sum(w * full(u) for w, u in zip(weights, updates))
    r = torch.linalg.matrix_rank(expected)
    torch.testing.assert_close(full(both), expected, rtol=0, atol=1e-6 * expected.norm().item())
    assert both.R.shape == (r, r) and r == min(sum(ranks), 10)
    for Q in (both.U, both.V):
        torch.testing.assert_close(Q.T @ Q, torch.eye(r), rtol=0, atol=1e-5)


def test_combine_truncates_like_the_svd_of_the_sum():
    updates = [update(10, 12, 4, k) for k in range(2)]
    S = torch.linalg.svdvals(sum(map(full, updates)))
    shares = S.square().cumsum(0) / S.square().sum()
    both = combine(updates, [1, 1], energy=0.8)
    assert both.R.shape[0] == int((shares < 0.8).sum()) + 1
    torch.testing.assert_close(both.R.diag().double(), S[: len(both.R)], rtol=1e-5, atol=0)


def test_the_same_update_twice_costs_no_rank_and_opposite_ones_leave_nothing():
    one = update(10, 12, 3)
    assert combine([one, one], [1, 1]).R.shape == (3, 3)
    torch.testing.assert_close(full(combine([one, one], [1, 1])), 2 * full(one), rtol=0, atol=1e-5)
    assert combine([one, one], [1, -1]) is None
    with pytest.raises(ValueError, match="cancel each other out"):
        combine_adapters([{"a": one}, {"a": one}], [1, -1])


def test_layers_of_one_adapter_only_stay():
    a, b = update(10, 12, 2, 0), update(6, 4, 2, 1)
    both = combine_adapters([{"x": a}, {"x": a, "y": b}], [1, 0.5])
    torch.testing.assert_close(full(both["x"]), 1.5 * full(a), rtol=0, atol=1e-5)
    torch.testing.assert_close(full(both["y"]), 0.5 * full(b), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="1 weights for 2 adapters"):
        combine_adapters([{"x": a}, {"x": a}], [1])


def test_overlap_of_known_spaces():
    Q = torch.linalg.qr(torch.randn(9, 6)).Q
    assert overlap(Q[:, :3], Q[:, 3:]) == pytest.approx(0, abs=1e-6)
    assert overlap(Q[:, :3], Q[:, :3] @ torch.randn(3, 3)) == pytest.approx(1, abs=1e-6)
    assert overlap(Q[:, :2], Q) == pytest.approx(1, abs=1e-6)
    turned = torch.cat([Q[:, :1], (Q[:, 1:2] + Q[:, 2:3]) / 2**0.5], 1)
    assert overlap(Q[:, :2], turned) == pytest.approx((1 + 0.5) / 2, abs=1e-6)


def test_random_spaces_overlap_by_chance():
    mean = sum(overlap(torch.randn(40, 4), torch.randn(40, 8)) for _ in range(200)) / 200
    assert mean == pytest.approx(8 / 40, rel=0.1)


def test_cosine_is_that_of_the_full_matrices():
    a, b = update(10, 12, 3, 0), update(10, 12, 5, 1, skew=True)
    expected = torch.nn.functional.cosine_similarity(full(a).flatten(), full(b).flatten(), 0).item()
    assert cosine(a, b) == pytest.approx(expected, abs=1e-6)
    assert cosine(a, a) == pytest.approx(1, abs=1e-6)
    assert cosine(a, Update(b.U, 0 * b.R, b.V)) == 0.0


def test_the_interference_matrix():
    a, b, c = update(20, 30, 2, 0), update(20, 30, 4, 1), update(8, 8, 2, 2)
    found = interference([{"x": a, "y": c}, {"x": b, "y": c}, {"z": c}])
    assert found["layers"].tolist() == [[2, 2, 0], [2, 2, 0], [0, 0, 1]]
    assert found["columns"][0, 1].item() == pytest.approx((overlap(a.U, b.U) + 1) / 2, abs=1e-5)
    assert found["rows"][1, 0].item() == pytest.approx((overlap(a.V, b.V) + 1) / 2, abs=1e-5)
    assert found["chance"][0, 1].item() == pytest.approx((4 / 20 + 2 / 8) / 2)
    assert found["cosine"][0, 1].item() == pytest.approx((cosine(a, b) + 1) / 2, abs=1e-5)
    for matrix in found.values():
        assert torch.equal(matrix, matrix.T)
    assert found["columns"].diagonal().tolist() == pytest.approx([1, 1, 1])
    assert found["columns"][0, 2] == 0


@pytest.mark.parametrize("name", ["mlp", "text", "unet"])
def test_adapters_on_a_model_become_one(name):
    model, plain = build(name), build(name)
    layers = {n: m.weight.flatten(1).shape for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    adapters = {}
    for k, own in enumerate((list(layers)[:-1], list(layers)[1:])):
        adapters[f"a{k}"] = {n: update(*layers[n], min(1 + k, *layers[n]), 7 * k + i) for i, n in enumerate(own)}
        config = SemuConfig()
        put_adapter(model, config, {n: u._asdict() for n, u in adapters[f"a{k}"].items()}, f"a{k}")
    found = [updates_of(model, k) for k in adapters]
    replace_adapters(model, list(adapters), combine_adapters(found, [1.0, 0.5]), SemuConfig(), "default")
    assert list(model.peft_config) == ["default"] and list(semu_layers(model, "a0")) == []
    for n in layers:
        expected = plain.get_submodule(n).weight.double()
        for weight, adapter in zip((1.0, 0.5), adapters.values()):
            expected = expected + (weight * full(adapter[n]) if n in adapter else 0)
        layer = model.get_submodule(n)
        torch.testing.assert_close(
            (layer.base_layer.weight + layer.get_delta_weight("default")).double(), expected, rtol=0, atol=1e-5
        )
    assert not any(p.requires_grad for m in semu_layers(model).values() for p in m.semu_R.parameters())
