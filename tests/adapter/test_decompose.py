"""The quick decompositions against torch.linalg.svd."""

import pytest
import torch

from semu_diffusion.adapter import decompose as module
from semu_diffusion.adapter.decompose import choose_method, decompose, energies, gram, gram64, krylov, side_by_side

INDEX = torch.arange(1, 161.0)
SPECTRA = {
    "harmonic": 1 / INDEX,
    "exponential": torch.exp(-INDEX / 8),
    "slow": INDEX**-0.5,
    "ties": torch.cat([torch.ones(30), torch.full((130,), 0.1)]),
    "flat": torch.ones(160),
    "steep": 10.0 ** -(INDEX / 4).clamp_max(30),
    "rank 20": torch.ones(20),
    "rank 1": torch.tensor([3.0]),
}
SHAPES = [(160, 320), (320, 160), (160, 160)]


def with_spectrum(S, m, n, seed=0):
    """A matrix (m, n) with the singular values S."""
    generator, S = torch.Generator().manual_seed(seed), S[: min(m, n)]
    U, V = (torch.linalg.qr(torch.randn(side, len(S), generator=generator).double()).Q for side in (m, n))
    return (U * S.double() @ V.T).float()


def share(G, U):
    """Energy of G inside the span of U, measured apart from the module."""
    Q = torch.linalg.qr(U.double()).Q
    return ((Q.T @ G.double()).square().sum() / G.double().square().sum()).item()


def best(G, r):
    """What the exact basis of that rank keeps."""
    S = torch.linalg.svdvals(G.double()).square()
    return (S[:r].sum() / S.sum()).item()


@pytest.mark.parametrize("method", ["exact", "gram", "randomized", "auto"])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_energy_is_that_of_the_exact_basis(spectrum, method):
    for shape in SHAPES:
        G = with_spectrum(SPECTRA[spectrum], *shape)
        (basis,) = decompose(G[None], 0.9, 12, method)
        r, eye = basis.rank, torch.eye(basis.rank)
        assert basis.U.shape == (shape[0], r) and basis.V.shape == (shape[1], r)
        for side in (basis.U, basis.V):
            torch.testing.assert_close(side.T @ side, eye, rtol=0, atol=2e-3)
            assert side.is_contiguous()
        for kept in (share(G, basis.U), share(G.T, basis.V)):
            assert kept >= 0.995 * best(G, r)
        assert basis.energy == pytest.approx(share(G, basis.U), rel=1e-3)
        # the smallest rank, but for what the basis itself misses
        assert r == 12 or basis.energy >= 0.9 - 1e-5
        assert r == 1 or best(G, r - 1) < 0.9 + 3e-3
        torch.testing.assert_close(basis.S, torch.linalg.svdvals(G)[:r], rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99, 0.9999, 1.0])
def test_gram_finds_the_exact_rank(gamma):
    for name in ("harmonic", "exponential", "slow", "steep", "rank 20", "rank 1"):
        G = with_spectrum(SPECTRA[name], 160, 300)[None]
        (one,), (other,) = decompose(G, gamma, None, "gram"), decompose(G, gamma, None, "exact")
        unclear = gamma == 1.0 or name == "rank 20"  # the cut lies in the rounding of fp32
        assert abs(one.rank - other.rank) <= unclear, name
        assert one.rank != other.rank or one.energy == pytest.approx(other.energy, abs=1e-5)


def test_a_random_matrix_has_no_gap_and_is_still_found():
    G = torch.randn(320, 640, generator=torch.Generator().manual_seed(0))
    (found,) = krylov(G[None], 0.9, 16, energies(G[None]))  # none of the other ways steps in
    assert found.rank == 16 and found.energy < 0.3
    assert share(G, found.U) >= 0.995 * best(G, 16)
    one_block = torch.linalg.qr(G @ torch.randn(640, 16)).Q
    assert share(G, one_block) < 0.8 * best(G, 16)  # so the test can fail


@pytest.mark.parametrize("spectrum, formed", [("flat", True), ("harmonic", False)])
def test_the_gram_matrix_of_wide_gradients_is_formed_for_flat_spectra_only(monkeypatch, spectrum, formed):
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(200, 1600, generator=generator) if spectrum == "flat" else with_spectrum(1 / INDEX, 200, 1600)
    used, real = [], module.gram_matrix
    monkeypatch.setattr(module, "gram_matrix", lambda A: used.append(A.shape) or real(A))
    for A in (G, G.T):
        (found,) = decompose(A[None], 0.99, 8, "randomized")
        assert share(A, found.U) >= 0.995 * best(A, 8) and found.rank == 8
        torch.testing.assert_close(found.V.T @ found.V, torch.eye(8), rtol=0, atol=1e-3)
        torch.testing.assert_close(A.T @ found.U, found.V * found.S, rtol=0, atol=1e-3 * found.S[0].item())
    assert bool(used) is formed


@pytest.mark.parametrize("m", [1, 127, 128, 300, 1281])
def test_half_a_gram_matrix_is_the_whole(m):
    A = torch.randn(2, m, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module.gram_matrix(A), A @ A.mT, rtol=1e-5, atol=1e-5)


def test_energies_of_many_numbers():
    A = torch.randn(3, 400, 20_000, generator=torch.Generator().manual_seed(0))
    truth = A.double().square().sum((1, 2))
    torch.testing.assert_close(energies(A), truth, rtol=1e-6, atol=0)
    torch.testing.assert_close(energies(A.mT), truth, rtol=1e-6, atol=0)


def test_a_stack_is_decomposed_as_its_parts():
    names = ("harmonic", "flat", "rank 1", "exponential")
    G = torch.stack([with_spectrum(SPECTRA[name], 160, 320, seed) for seed, name in enumerate(names)])
    G = torch.cat([G, torch.zeros(1, 160, 320)])
    for method in ("exact", "gram", "randomized"):
        together = decompose(G, 0.8, 10, method)
        for one, alone in zip(together, (decompose(g[None], 0.8, 10, method)[0] for g in G)):
            assert one.rank == alone.rank
            assert one.energy == pytest.approx(alone.energy, rel=5e-3)
        assert together[-1].rank == 0


@pytest.mark.parametrize("method", ["exact", "gram", "randomized"])
@pytest.mark.parametrize("size", [1e-25, 1e15])
def test_tiny_and_huge_gradients(method, size):
    G = with_spectrum(SPECTRA["harmonic"], 100, 140)
    (one,), (scaled,) = decompose(G[None], 0.8, 8, method), decompose(size * G[None], 0.8, 8, method)
    assert scaled.rank == one.rank and scaled.energy == pytest.approx(one.energy, rel=1e-5)
    torch.testing.assert_close(scaled.S / size, one.S, rtol=1e-4, atol=0)


def test_the_input_is_left_as_it_is():
    G = with_spectrum(SPECTRA["slow"], 100, 140)[None]
    before = G.clone()
    for method in ("exact", "gram", "randomized"):
        decompose(G, 0.9, 8, method)
        assert torch.equal(G, before)


def test_what_fails_its_check_is_done_more_carefully():
    G = with_spectrum(10.0 ** -torch.linspace(0, 4.5, 80), 80, 120)[None]
    (rough,), (fine,) = gram(G, 1.0, None, energies(G)), gram64(G, 1.0, None, energies(G))
    assert rough is None or rough.rank < fine.rank  # fp32 cannot tell the last ones from rounding
    (basis,) = decompose(G, 1.0, None, "gram")
    assert basis.rank == 80
    torch.testing.assert_close(basis.V.T @ basis.V, torch.eye(80), rtol=0, atol=1e-3)
    G = torch.randn(1, 100, 120)
    assert krylov(G, 0.99, None, energies(G)) == [None]  # a rank near m: not for this way
    (basis,) = decompose(torch.randn(1, 100, 120), 0.99, None, "randomized")
    assert basis.energy >= 0.99


def test_the_method_follows_the_shape(monkeypatch):
    assert choose_method(48, 5000, 32) == "exact"
    assert choose_method(320, 320, None) == "gram"
    assert choose_method(100, 5000, 32) == "gram"
    assert choose_method(1280, 1280, 32) == choose_method(1280, 11520, 32) == "randomized"
    used = []
    monkeypatch.setattr(module, "krylov", lambda A, *a: used.append(len(A)) or [None] * len(A))
    (basis,) = decompose(torch.randn(1, 160, 900), 0.9, 4)
    assert used == ([1] if choose_method(160, 900, 4) == "randomized" else [])
    assert basis.rank == 4


def test_work_side_by_side_keeps_order_and_threads():
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    seen = side_by_side(lambda k: (k, torch.get_num_threads()), list(range(20)), cpu)
    assert seen == [(k, 1) for k in range(20)] and side_by_side(str, [], cpu) == []
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda k: 1 / k, [1, 0], cpu)
        assert torch.get_num_threads() == 3
        assert side_by_side(lambda k: torch.get_num_threads(), [1], torch.device("meta")) == [3]
    finally:
        torch.set_num_threads(threads)


def test_an_unknown_method():
    with pytest.raises(ValueError, match="method must be one of auto, exact, gram, randomized, got 'fast'"):
        decompose(torch.randn(1, 4, 4), 0.9, None, "fast")
