"""Fusion; the truth is dense least squares over the samples themselves, in float64."""

import pytest
import torch

from semu_diffusion.adapter.fusion import Fusion
from semu_diffusion.adapter.moments import LeadingMoments, mixed, product
from semu_diffusion.adapter.updates import Update

M, N, RANK = 9, 14, 3


def update(seed, m=M, n=N, r=RANK):
    g = torch.Generator().manual_seed(seed)
    U, V = (torch.linalg.qr(torch.randn(k, r, generator=g)).Q for k in (m, n))
    return Update(U, torch.randn(r, r, generator=g), V)


def full(u):
    return u.U.double() @ u.R.double() @ u.V.double().T


def samples(seed, count=40, n=N):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, generator=g) * torch.rand(n, generator=g)


def moments(x):
    return x.T @ x / len(x)


def least_squares(updates, own, kept, weight, ridge):
    """argmin_D sum_i |D x - D_i x|^2 + weight sum |D x|^2 + ridge |D|^2 over all samples, by lstsq on stacked rows."""
    rows, goals = [], []
    for D, x in zip(updates, own):
        rows.append(x.double() / len(x) ** 0.5)
        goals.append(rows[-1] @ D.T)
    rows.append(kept.double() * (weight / len(kept)) ** 0.5)
    goals.append(torch.zeros(len(kept), M, dtype=torch.double))
    rows.append(ridge**0.5 * torch.eye(N, dtype=torch.double))
    goals.append(torch.zeros(N, M, dtype=torch.double))
    return torch.linalg.lstsq(torch.cat(rows), torch.cat(goals)).solution.T


def fusion_of(updates, own, kept, weight):
    fusion = Fusion()
    for u, x in zip(updates, own):
        fusion.add({"a": u}, {"a": moments(x)})
    fusion.keep({"a": moments(kept)}, weight)
    return fusion


def test_it_is_least_squares_over_the_samples():
    updates, own, kept = [update(k) for k in range(3)], [samples(10 + k) for k in range(3)], samples(20)
    fusion = fusion_of(updates, own, kept, 0.3)
    total = sum(moments(x).double() for x in own) + 0.3 * moments(kept).double()
    ridge = 1e-3 * total.diagonal().mean().item()
    truth = least_squares([full(u) for u in updates], own, kept, 0.3, ridge)
    found = fusion.fused()["a"]
    torch.testing.assert_close(full(found), truth, rtol=0, atol=1e-5 * truth.norm().item())
    for side in (found.U, found.V):
        torch.testing.assert_close(side.T @ side, torch.eye(side.shape[1]), rtol=0, atol=1e-5)
    stronger = fusion.fused(strengths=[2.0, 2.0, 2.0])["a"]
    torch.testing.assert_close(full(stronger), 2 * truth, rtol=0, atol=1e-5 * truth.norm().item())


def test_on_inputs_that_share_nothing_each_adapter_is_as_it_was_and_the_rest_is_left_alone():
    """Inputs in three orthogonal spaces: D* x = D_i x in each one's, and 0 on what must stay."""
    Q = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(1))).Q
    own = [samples(k, n=4) @ Q[:, 4 * k : 4 * k + 4].T for k in range(2)]
    kept = samples(5, n=6) @ Q[:, 8:].T
    updates = [update(k) for k in range(2)]
    found = full(fusion_of(updates, own, kept, 0.1).fused(damping=1e-9)["a"])
    for u, x in zip(updates, own):
        torch.testing.assert_close(x.double() @ found.T, x.double() @ full(u).T, rtol=0, atol=1e-4)
        assert (x.double() @ sum(map(full, updates)).T - x.double() @ full(u).T).norm() > 0.1  # their sum does not
    assert (kept.double() @ found.T).abs().max() < 1e-4


def test_one_more_into_a_fused_one_counts_the_fused_one_for_all_that_it_holds():
    """D_12 (C_1 + C_2) + D_3 C_3 over all moments."""
    updates, own, kept = [update(k) for k in range(3)], [samples(10 + k) for k in range(3)], samples(20)
    two = fusion_of(updates[:2], own[:2], kept, 0.2).fused()["a"]
    fusion, both = Fusion(), (moments(own[0]) + moments(own[1])) / 2
    fusion.add({"a": two}, {"a": both}, share=2)
    fusion.add({"a": updates[2]}, {"a": moments(own[2])})
    fusion.keep({"a": moments(kept)}, 0.3)
    total = (2 * both + moments(own[2]) + 0.3 * moments(kept)).double()
    total += 1e-3 * total.diagonal().mean() * torch.eye(N)
    left = full(two) @ (2 * both).double() + full(updates[2]) @ moments(own[2]).double()
    torch.testing.assert_close(full(fusion.fused()["a"]), left @ torch.linalg.inv(total), rtol=0, atol=1e-4)


def test_a_layer_that_one_leaves_alone_is_left_alone_on_its_inputs():
    fusion, own = Fusion(), [samples(10), samples(11)]
    fusion.add({"a": update(0)}, {"a": moments(own[0])})
    fusion.add({}, {"a": moments(own[1])})
    found = full(fusion.fused()["a"])
    alone = Fusion()
    alone.add({"a": update(0)}, {"a": moments(own[0])})
    before = full(alone.fused()["a"])
    assert (own[1].double() @ found.T).norm() < 0.8 * (own[1].double() @ before.T).norm()


def test_truncation_keeps_its_share_of_what_is_done_to_the_outputs():
    updates, own, kept = [update(k) for k in range(3)], [samples(10 + k) for k in range(3)], samples(20)
    fusion = fusion_of(updates, own, kept, 0.3)
    whole, part = fusion.fused()["a"], fusion.fused(0.9)["a"]
    M_ = (sum(map(moments, own)) + 0.3 * moments(kept)).double()
    M_ += 1e-3 * M_.diagonal().mean() * torch.eye(N)
    lost = ((full(whole) - full(part)) @ M_ * (full(whole) - full(part))).sum() / (full(whole) @ M_ * full(whole)).sum()
    assert 0 < lost <= 0.1 and len(part.R) < len(whole.R)
    assert len(fusion.fused(max_rank=2)["a"].R) == 2


def leading(C, k):
    values, P = torch.linalg.eigh(C)
    tail = values[:-k].mean().item()
    return LeadingMoments(P[:, -k:], values[-k:] - tail, tail, C.diagonal().mean().item())


def dense(C):
    return (C.P * C.values) @ C.P.T + C.tail * torch.eye(len(C.P))


def test_wide_layers_are_fused_from_leading_moments():
    updates, own, kept = [update(k) for k in range(2)], [samples(10), samples(11)], samples(20)
    parts = [leading(moments(x), 5) for x in (*own, kept)]
    found, expected = Fusion(), Fusion()
    for u, C in zip(updates, parts):
        found.add({"a": u}, {"a": C})
        expected.add({"a": u}, {"a": dense(C)})
        torch.testing.assert_close(product(C, u.V), dense(C) @ u.V, rtol=0, atol=1e-5)
    found.keep({"a": parts[2]}, 0.3)
    expected.keep({"a": dense(parts[2])}, 0.3)
    torch.testing.assert_close(dense(mixed([(1.0, parts[0]), (0.3, parts[2])])), dense(parts[0]) + 0.3 * dense(parts[2]), rtol=0, atol=1e-5)  # fmt: skip  # noqa: E501
    torch.testing.assert_close(full(found.fused()["a"]), full(expected.fused()["a"]), rtol=0, atol=1e-4)


def test_a_sum_of_leading_moments_keeps_its_width_and_its_size(monkeypatch):
    monkeypatch.setattr("semu_diffusion.adapter.moments.COLUMNS", 6)
    a, b = leading(moments(samples(1)), 5), leading(moments(samples(2)), 5)
    both = mixed([(1.0, a), (2.0, b)])
    assert both.P.shape == (N, 6) and both.size == pytest.approx(a.size + 2 * b.size)
    trace = dense(a).trace() + 2 * dense(b).trace()
    assert dense(both).trace().item() == pytest.approx(trace.item(), rel=0.05)
    assert torch.linalg.matrix_norm(dense(both) - dense(a) - 2 * dense(b), 2) < 0.1 * trace


def test_bad_input():
    with pytest.raises(ValueError, match="nothing to fuse"):
        Fusion().fused()
    with pytest.raises(ValueError, match="layer a is not used"):
        Fusion().add({"a": update(0)}, {})
    with pytest.raises(ValueError, match="layer a has 5 inputs, the adapter's update 14"):
        Fusion().add({"a": update(0)}, {"a": torch.eye(5)})
