"""Sketched second moments against whole ones."""

import pytest
import torch
from torch import nn

from semu_diffusion.adapter import SemuConfig, moments
from semu_diffusion.adapter.moments import LeadingMoments, Moments, second_moments
from semu_diffusion.adapter.subspace import find_bases, truncate, truncate_remain


@pytest.fixture
def narrow(monkeypatch):
    """Everything above 100 inputs is wide, and sketches have 60 columns."""
    monkeypatch.setattr(moments, "WIDE", 100)
    monkeypatch.setattr(moments, "COLUMNS", 60)


def rows(count, n, decay, seed=0):
    """Inputs whose k-th direction has size exp(-k / decay), as those of a trained layer fall off, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator)).Q
    x = torch.randn(count, n, generator=generator) * torch.exp(-torch.arange(n) / decay)
    return x @ Q.T + 1e-2 * torch.randn(count, n, generator=generator)


def both(x, batches=3):
    """The sketch of x's moments, summed over batches, and the moments themselves."""
    sums = Moments(x.shape[1])
    for part in x.chunk(batches):
        sums.add(part)
    return sums.mean(), x.T @ x / len(x)


@pytest.mark.parametrize("decay", [3.0, 10.0])
def test_the_leading_part_solves_as_the_whole(narrow, decay):
    found, C = both(rows(2000, 240, decay))
    assert isinstance(found, LeadingMoments) and found.P.shape[1] <= 60
    assert found.size == pytest.approx(C.diagonal().mean().item(), rel=1e-5)
    eye = torch.eye(found.P.shape[1])
    torch.testing.assert_close(found.P.T @ found.P, eye, rtol=0, atol=1e-3)
    whole = found.P * found.values @ found.P.T + found.tail * torch.eye(240)
    assert (whole - C).norm() < 0.02 * C.norm()
    B = torch.randn(240, 7).double()
    damped = C.double() + 1e-2 * C.double().diagonal().mean() * torch.eye(240)
    exact = torch.linalg.solve(damped, B)
    # small directions count most in an inverse, and the sketch knows only their mean
    forms = found.whiten(B.T.float(), 1e-2).double().square().sum(1) / (B * exact).sum(0)
    assert forms.min() > 0.6 and forms.max() < 1.4
    lead = found.P[:, -2:]  # what the kept inputs are made of is known well
    torch.testing.assert_close((lead.T @ C @ lead).diagonal(), found.values[-2:], rtol=0.02, atol=0)


def test_few_rows_are_exact(narrow):
    found, C = both(torch.randn(20, 150))  # of rank 20, fewer than columns
    torch.testing.assert_close(found.P * found.values @ found.P.T, C, rtol=1e-3, atol=1e-3)
    assert found.tail < 1e-4 * found.size


def test_layers_that_never_fire(narrow):
    found, _ = both(torch.zeros(10, 150))
    G = torch.randn(20, 150)
    assert found.size == 0 and torch.isfinite(found.whiten(G, 1e-2)).all()
    basis, plain = truncate_remain(G, found, 0.9, 8, 1e-2), truncate(G, 0.9, 8)
    torch.testing.assert_close(basis.V @ basis.V.T, plain.V @ plain.V.T)  # nothing to keep


def test_the_basis_harms_as_little_as_that_of_the_whole(narrow):
    x, G = rows(2000, 240, 6.0), torch.randn(50, 240)
    found, C = both(x)
    harm = []
    for metric in (found, C, torch.eye(240)):  # forgetting per movement of what is kept, of the best update of rank 8
        basis = truncate_remain(G, metric, 1.0, 8, 1e-2)
        D = basis.U @ (basis.U.T @ G @ basis.V) @ basis.V.T
        harm.append(((D * G).sum() ** 2 / ((D @ C * D).sum() + 1e-2 * C.diagonal().mean() * D.square().sum())).item())
    assert harm[0] > 0.9 * harm[1] > 3 * 0.9 * harm[2]


def test_only_wide_layers_are_sketched(narrow):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )
    x = torch.randn(30, 3, 6, 6)
    found = second_moments(model, SemuConfig(), lambda: model(x))
    assert [isinstance(found[k], LeadingMoments) for k in ("0", "2", "4")] == [False, True, False]
    bases = find_bases(
        model,
        SemuConfig(geometry="remain", gamma=0.9),
        lambda: model(x[:4]).square().sum().backward(),
        lambda: model(x),
    )
    assert set(bases) == {"0", "2", "4"} and all(b.U.isfinite().all() and b.V.isfinite().all() for b in bases.values())
