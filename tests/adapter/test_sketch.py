"""Gradients layer by layer and as sketches, against their whole sums."""

import pytest
import torch
from models import build, loss, predict
from torch import nn

from semu_diffusion.adapter import SemuConfig, find_layers
from semu_diffusion.adapter.gradients import gradients
from semu_diffusion.adapter.sketch import Maps, Sketch, Sums
from semu_diffusion.adapter.subspace import find_bases, project


def decaying(m, n, decay, seed):
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.linalg.qr(torch.randn(side, 60, generator=generator)).Q for side in (m, n))
    return U * torch.exp(-torch.arange(60) / decay) @ V.T


def best(G, r):
    S = torch.linalg.svdvals(G.double()).square()
    return (S[:r].sum() / S.sum()).item()


def share(G, U):
    return ((torch.linalg.qr(U).Q.T @ G).square().sum() / G.square().sum()).item()


@pytest.mark.parametrize("shape", [(200, 900), (900, 200)])
@pytest.mark.parametrize(("decay", "least"), [(1.0, 0.9999), (4.0, 0.995), (8.0, 0.95)])  # one pass has its limits
def test_a_sketch_of_several_batches_finds_the_sums_basis(shape, decay, least):
    batches = [decaying(*shape, decay, seed) for seed in (0, 0, 1)]
    W, sums = torch.randn(shape), Sums(columns=40)
    for G in batches:
        sums.add("layer", G, W)
    G, sketch = project(sum(batches), W), sums.projected("layer", W)
    assert isinstance(sketch, Sketch)
    basis = sketch.basis(0.9, 16)
    r = basis.rank
    assert share(G, basis.U) >= least * best(G, r) and share(G.T, basis.V) >= least * best(G, r)
    assert basis.energy == pytest.approx(share(G, basis.U), abs=0.03)
    assert r == 16 or best(G, r) >= 0.88 and best(G, max(r - 1, 1)) < 0.92 or r == 1
    torch.testing.assert_close(basis.U.T @ basis.U, torch.eye(r), rtol=0, atol=1e-4)


def test_sketches_are_linear_and_so_is_the_projection():
    m, n = 90, 700
    A, B, W = torch.randn(m, n), torch.randn(m, n), torch.randn(m, n)
    sums = Sums(columns=8)
    sums.add("layer", A, W)
    sums.add("layer", B, W)
    found, direct = sums.projected("layer", W), Sketch(Maps(8), m, n)
    assert isinstance(found, Sketch)
    direct.add(project(A + B, W))
    for one, other in zip(found.parts, direct.parts):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)
    raw = Sketch(Maps(8), m, n)
    raw.add(A + B + 5 * W)
    assert (raw.parts[0] - found.parts[0]).norm() > found.parts[0].norm()  # so the projection did something


@pytest.mark.parametrize("rank", [1, 5])
def test_a_gradient_of_low_rank_is_exact(rank):
    G = torch.randn(200, rank) @ torch.randn(rank, 150)
    sketch = Sketch(Maps(12), 200, 150)
    sketch.add(G)
    basis = sketch.basis(1.0 - 1e-6)
    assert basis.rank == rank and basis.energy == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(basis.U * basis.S @ basis.V.T, G, rtol=1e-3, atol=1e-3)


def test_the_estimates_of_the_energy_are_unbiased_on_what_the_sketch_misses():
    G, told, mistaken = torch.randn(80, 200), [], []
    for seed in range(80):
        sketch = Sketch(Maps(10, seed), 80, 200)
        sketch.add(G)
        Q, C, P = sketch.factors()
        u, S, vh = torch.linalg.svd(C)
        V = P @ vh.T
        each, total = sketch.energies(Q @ u, S, V)
        kept = (G @ V).square().sum()
        told.append(((each.sum() - kept) / G.square().sum()).item())
        mistaken.append(((S.square().sum() - kept) / G.square().sum()).item())
        assert total == pytest.approx(G.square().sum().item(), rel=1.5)
    spread = torch.tensor(told).std().item() / 80**0.5
    assert abs(sum(told) / 80) < 3 * spread + 1e-3
    assert sum(mistaken) / 80 > 6 * spread  # the approximation's own singular values would claim too much


def test_a_zero_sum_has_no_basis():
    sketch = Sketch(Maps(8), 90, 700)
    sketch.add(torch.zeros(90, 700))
    assert sketch.basis(0.9).rank == 0


def test_small_layers_are_summed_as_they_are():
    sums, W = Sums(columns=16), torch.randn(20, 30)
    sums.add("layer", torch.ones(20, 30), W)
    sums.add("layer", torch.ones(20, 30), W)
    assert torch.equal(sums.projected("layer", W), torch.full((20, 30), 2.0))


class Wide(nn.Module):
    """Layers large enough for sketches, between small ones."""

    def __init__(self):
        super().__init__()
        self.head, self.wide, self.tall = nn.Linear(6, 256), nn.Linear(256, 300), nn.Linear(300, 256)
        self.out = nn.Linear(256, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.tall(torch.tanh(self.wide(torch.tanh(self.head(x)))))))


def batches(model, count, records=5):
    x = torch.randn(count, records, 6, generator=torch.Generator().manual_seed(1))
    return lambda: [(model(part) - 1).square().sum().backward() for part in x]


def test_find_bases_with_sketches():
    model, config = Wide(), SemuConfig(gamma=0.95, max_rank=8)
    whole, sketched = (
        find_bases(model, config, batches(model, 6)),
        find_bases(model, config, batches(model, 6), sketch=24),
    )
    G = gradients(model, config, batches(model, 6))
    assert list(whole) == list(sketched) == list(find_layers(model, config))
    for name, basis in sketched.items():
        W = model.get_submodule(name).weight.detach()
        P = project(G[name], W)
        assert abs(basis.rank - whole[name].rank) <= 1
        assert share(P, basis.U) >= 0.99 * best(P, basis.rank)
        assert share(P.T, basis.V) >= 0.99 * best(P, basis.rank)
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(sketched["head"].S, whole["head"].S)  # small: not sketched


@pytest.mark.parametrize("geometry", ["euclidean", "remain"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_one_batch_layer_by_layer_is_exact(name, geometry):
    model, config = build(name), SemuConfig(gamma=0.8, geometry=geometry)
    run = (model, config, lambda: loss(model).backward(), lambda: predict(model, 1))
    whole, one = find_bases(*run), find_bases(*run, sketch=0)
    assert list(whole) == list(one)
    for key in whole:
        assert one[key].rank == whole[key].rank
        torch.testing.assert_close(one[key].S, whole[key].S)


def test_remain_with_sketches():
    model, config = Wide(), SemuConfig(gamma=0.9, max_rank=6, geometry="remain")
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    run = (model, config, batches(model, 4), lambda: model(x))
    whole, sketched = find_bases(*run), find_bases(*run, sketch=24)
    for name, basis in sketched.items():
        r = min(basis.rank, whole[name].rank)
        overlap = (torch.linalg.qr(whole[name].U[:, :r]).Q.T @ torch.linalg.qr(basis.U[:, :r]).Q).square().sum() / r
        assert overlap > 0.9


@pytest.mark.parametrize("sketch", [0, 24])
def test_one_gradient_is_alive_at_a_time(sketch):
    model, alive = Wide(), []
    for layer in (model.head, model.wide, model.tall, model.out):  # runs before the hook that takes it away
        layer.weight.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in model.parameters()))
        )
    find_bases(model, SemuConfig(max_rank=4), batches(model, 1), sketch=sketch)
    assert alive == [1, 1, 1, 1]
    alive.clear()
    find_bases(model, SemuConfig(max_rank=4), batches(model, 1))
    assert alive == [1, 2, 3, 4]  # so the test can fail


def test_errors():
    model = Wide()
    with pytest.raises(ValueError, match="sketch 0 is for a single batch, and a second one came"):
        find_bases(model, SemuConfig(), batches(model, 2), sketch=0)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="sketch must be a number of columns"):
        find_bases(model, SemuConfig(), batches(model, 1), sketch=-1)
    with pytest.raises(ValueError, match="gradient of out is not finite"):
        find_bases(model, SemuConfig(), lambda: (model(torch.ones(2, 6)).sum() * torch.nan).backward(), sketch=24)
