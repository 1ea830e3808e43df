"""The mathematics of the basis, against closed forms, brute force and plain models."""

import re

import pytest
import torch
from models import build, loss, predict
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from semu_diffusion.adapter import SemuConfig, SemuLayer, SemuLinear, find_layers
from semu_diffusion.adapter.decompose import choose_rank
from semu_diffusion.adapter.gradients import gradients, patches
from semu_diffusion.adapter.moments import second_moments
from semu_diffusion.adapter.subspace import (
    find_bases,
    gamma_of,
    install_bases,
    param_groups,
    project,
    truncate,
    truncate_remain,
)


def orthonormal(rows, columns):
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64)).Q


def with_spectrum(S, m, n):
    """A matrix (m, n), float32, with the singular values S."""
    S = torch.as_tensor(S, dtype=torch.float64)
    return (orthonormal(m, len(S)) * S @ orthonormal(n, len(S)).T).float()


def moments(n, spread=100.0):
    """A symmetric positive definite matrix (n, n), float64, with condition number `spread`."""
    Q = orthonormal(n, n)
    return Q * torch.logspace(0, torch.tensor(spread).log10(), n, dtype=torch.float64) @ Q.T


def inner(A, B):
    return (A.double() * B.double()).sum().item()


# Projection


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_projection_is_orthogonal_to_the_weight(size):
    G, W = torch.randn(7, 9), torch.randn(7, 9)
    W = size * W / W.norm()
    P = project(G, W)
    assert abs(inner(P, W)) < 1e-5 * P.norm() * W.norm()
    torch.testing.assert_close(project(P, W), P)
    along = G - P  # what was taken away lies along W
    assert abs(abs(inner(along, W)) - (along.norm() * W.norm()).item()) < 1e-4 * size
    # The published code divides by the norm, not by its square: that is orthogonal for a weight of norm 1 only.
    published = G - (G * W).sum() / W.norm() * W
    assert (abs(inner(published, W)) < 1e-5 * published.norm() * W.norm()) == (size == 1.0)


def test_projection_of_and_on_zero():
    G = torch.randn(3, 4)
    assert torch.equal(project(G, torch.zeros(3, 4)), G)
    assert project(G, G).norm() < 1e-6


# Rank and truncation


def smallest_rank(S, gamma):
    squares = [float(s) ** 2 for s in S]
    return next(r for r in range(1, len(S) + 1) if sum(squares[:r]) >= gamma * sum(squares) * (1 - 1e-15))


@pytest.mark.parametrize("gamma", [0.05, 0.5, 0.9, 0.99, 1.0])
def test_rank_is_the_smallest_that_keeps_gamma(gamma):
    for _ in range(50):
        S = torch.rand(12).double().pow(4).sort(descending=True).values + 1e-3
        assert choose_rank(S, gamma) == smallest_rank(S, gamma)


@pytest.mark.parametrize(
    ("S", "gamma", "expected"),
    [
        ([2.0, 2.0, 2.0, 2.0], 0.5, 2),  # hit exactly: one more is not needed
        ([2.0, 2.0, 2.0, 2.0], 0.51, 3),
        ([2.0, 2.0, 2.0, 2.0], 0.75, 3),
        ([10.0, 1.0, 1.0], 0.9, 1),  # the first alone is above gamma
        ([3.0], 0.01, 1),  # a 1x1 convolution per channel, which the published code gives rank 0
        ([5.0, 0.0, 0.0], 1.0, 1),
        ([4.0, 3.0, 1e-3], 1.0, 3),
        ([1e-30, 1e-30], 0.9, 2),
        ([0.0, 0.0], 0.9, 0),
        ([0.0], 1.0, 0),
        ([], 0.9, 0),
    ],
)
def test_rank_of_known_spectra(S, gamma, expected):
    assert choose_rank(torch.tensor(S), gamma) == expected


@pytest.mark.parametrize(("max_rank", "expected"), [(None, 4), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_max_rank(max_rank, expected):
    assert choose_rank(torch.ones(4), 1.0, max_rank) == expected
    assert truncate(with_spectrum([1, 1, 1, 1], 6, 4), 1.0, max_rank).rank == expected


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
def test_truncation_is_optimal(shape, gamma):
    S = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])
    G = with_spectrum(S, *shape)
    basis = truncate(G, gamma)
    r, eye = basis.rank, torch.eye(basis.rank)
    assert r == smallest_rank(S, gamma)
    torch.testing.assert_close(basis.S, S[:r], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(basis.U.T @ basis.U, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(basis.V.T @ basis.V, eye, rtol=0, atol=1e-5)
    error = (G - basis.U * basis.S @ basis.V.T).square().sum()
    torch.testing.assert_close(error, S[r:].square().sum(), rtol=1e-4, atol=1e-6)  # Eckart-Young
    assert basis.energy == pytest.approx((S[:r].square().sum() / S.square().sum()).item(), rel=1e-5)
    assert basis.U.is_contiguous() and basis.V.is_contiguous()


def captured(G, U, V):
    """Share of the energy of G inside the span of U and V."""
    QU, QV = torch.linalg.qr(U).Q, torch.linalg.qr(V).Q
    return ((QU.T @ G @ QV).square().sum() / G.square().sum()).item()


def test_no_other_basis_of_that_rank_is_better():
    G = torch.randn(7, 6)
    basis = truncate(G, 0.6)
    best = captured(G, basis.U, basis.V)
    assert best == pytest.approx(basis.energy, rel=1e-4)
    for _ in range(20):
        U, V = orthonormal(7, basis.rank).float(), orthonormal(6, basis.rank).float()
        assert captured(G, U, V) < best


def test_a_zero_gradient_has_no_basis():
    assert truncate(torch.zeros(4, 3), 0.9).rank == 0
    assert truncate_remain(torch.zeros(4, 3), torch.eye(3), 0.9, None, 0.01).rank == 0


@pytest.mark.parametrize("geometry", ["euclidean", "remain"])
def test_1x1_convolutions_get_a_basis(geometry):
    model = build("cnn")
    config = SemuConfig(gamma=0.5, geometry=geometry)
    bases = find_bases(model, config, lambda: loss(model).backward(), lambda: predict(model, 1))
    assert bases["point"].rank >= 1
    assert set(bases) == set(find_layers(model, config))


def test_gamma_pattern_takes_the_first_match():
    config = SemuConfig(gamma=0.5, gamma_pattern={r"attn2\.to_": 1.0, "attn": 0.7})
    names = ["a.attn2.to_q", "a.attn1.to_q", "conv_in"]
    assert [gamma_of(name, config) for name in names] == [1.0, 0.7, 0.5]


# Gradients


def test_gradients_equal_those_of_a_plain_model():
    model, plain = build("cnn"), build("cnn").double()
    found = gradients(model, SemuConfig(), lambda: loss(model).backward())
    loss(plain, dtype=torch.float64).backward()
    for name, G in found.items():
        expected = plain.get_submodule(name).weight.grad.flatten(1)
        torch.testing.assert_close(G.double(), expected, rtol=1e-4, atol=1e-6)


def test_gradients_use_all_batches():
    model = build("cnn").double()

    def run(*batches):
        return gradients(model, SemuConfig(), lambda: [loss(model, b, torch.float64).backward() for b in batches])

    together, apart = run(0, 1, 2), [run(0), run(1), run(2)]
    for name in together:
        torch.testing.assert_close(together[name], sum(G[name] for G in apart), rtol=1e-5, atol=1e-7)
        assert (together[name] - apart[0][name]).norm() > 0.1 * together[name].norm()


def snapshot(model):
    values = {key: value.clone() for key, value in model.state_dict().items()}
    grads = {key: None if p.grad is None else p.grad.clone() for key, p in model.named_parameters()}
    return values, grads, [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_gradients_leave_no_trace(fails):
    model = build("cnn").train()
    model.dropout.eval()
    model.bn.weight.requires_grad_(False)
    model.head.weight.requires_grad_(False)
    model.point.weight.grad = torch.ones_like(model.point.weight)
    before = snapshot(model)
    modes = []

    def backward():
        loss(model).backward()
        modes.append(any(m.training for m in model.modules()))
        assert model.bn.bias.grad is None
        if fails:
            raise RuntimeError("out of memory")

    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            gradients(model, SemuConfig(), backward)
    else:
        assert "head" in gradients(model, SemuConfig(), backward)
    assert modes == [False]
    for one, other in zip(before[:2], snapshot(model)[:2]):
        assert one.keys() == other.keys()
        assert all(a is b if a is None else torch.equal(a, b) for a, b in zip(one.values(), other.values()))
    assert before[2:] == snapshot(model)[2:]


def test_the_batchnorm_statistics_would_move_in_train_mode():
    model = build("cnn").train()
    before = model.bn.running_mean.clone()
    predict(model)
    assert not torch.equal(before, model.bn.running_mean)  # so the test above can fail


def test_gradients_only_of_targeted_layers():
    model = build("mlp")
    config = SemuConfig(target_modules=["first", "second"], exclude_modules=["second"])
    assert list(gradients(model, config, lambda: loss(model).backward())) == ["first"]


def random_adapter(name, rank=2):
    """The model with random U, R, V everywhere, and the plain model with W + U R V^T."""
    config = SemuConfig(ranks={k: rank for k in find_layers(build(name), SemuConfig())})
    model, plain = inject_adapter_in_model(config, build(name)), build(name)
    for k in config.ranks:
        layer, W = model.get_submodule(k), plain.get_submodule(k).weight
        m, n = W.shape[0], W[0].numel()
        U, V, R = 0.3 * torch.randn(m, rank), 0.3 * torch.randn(n, rank), torch.randn(rank, rank)
        layer.set_basis("default", U, V, R)
        W.data += (U @ R @ V.T).view_as(W)
    return model, plain


@pytest.mark.parametrize("name", ["mlp", "cnn", "text"])
def test_gradients_with_an_adapter_are_those_at_the_merged_weights(name):
    model, plain = random_adapter(name)
    actual = gradients(model, SemuConfig(), lambda: loss(model).backward())
    expected = gradients(plain, SemuConfig(), lambda: loss(plain).backward())
    base = build(name)
    at_base = gradients(base, SemuConfig(), lambda: loss(base).backward())
    assert actual.keys() == expected.keys()
    for key in actual:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-3, atol=1e-5)
    assert any((actual[key] - at_base[key]).norm() > 0.1 * at_base[key].norm() for key in actual)


# Second moments

CONVS = [
    {},
    {"stride": 2},
    {"padding": 1},
    {"padding": (0, 2), "stride": (2, 1)},
    {"dilation": 2, "padding": 2},
    {"kernel_size": 1},
    {"kernel_size": (1, 3), "padding": "same"},
    {"kernel_size": (2, 4), "padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (2, 1), "padding_mode": "circular", "stride": 2},
    {"padding": 1, "padding_mode": "replicate", "dilation": (1, 2)},
]


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_patches_times_the_matrix_is_the_convolution(options):
    conv, x = nn.Conv2d(3, 5, **{"kernel_size": 3, **options}).double(), torch.randn(2, 3, 8, 7).double()
    rows = patches(conv, x) @ conv.weight.flatten(1).T + conv.bias
    torch.testing.assert_close(rows, conv(x).permute(0, 2, 3, 1).reshape(-1, 5))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"kernel_size": 1}], ids=str)
def test_patches_of_a_grouped_convolution_are_those_of_its_groups(options):
    conv, x = nn.Conv2d(4, 6, **{"kernel_size": 3, "groups": 2, **options}).double(), torch.randn(2, 4, 6, 5).double()
    rows = patches(conv, x)
    rows = rows.view(-1, 2, rows.shape[1])  # (positions, group, n)
    out = torch.cat([rows[:, g] @ conv.weight[3 * g : 3 * g + 3].flatten(1).T for g in (0, 1)], 1) + conv.bias
    torch.testing.assert_close(out, conv(x).permute(0, 2, 3, 1).reshape(-1, 6))


def test_patches_of_a_linear_layer():
    layer, x = nn.Linear(4, 3, bias=False), torch.randn(2, 5, 4)
    torch.testing.assert_close(patches(layer, x) @ layer.weight.T, layer(x).view(10, 3))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_second_moments_equal_brute_force(name):
    model = build(name).train()
    before, seen = snapshot(model), {}
    layers = find_layers(model, SemuConfig())

    def forward():
        for key, layer in layers.items():
            layer.register_forward_hook(lambda _, args, __, key=key: seen.setdefault(key, []).append(args[0]))
        for batch in (1, 2):
            predict(model, batch)

    found = second_moments(model, SemuConfig(), forward)
    for key, layer in layers.items():
        rows = [row for x in seen[key] for row in patches(layer, x).double()]
        expected = sum(row.outer(row) for row in rows) / len(rows)
        torch.testing.assert_close(found[key].double(), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), model.state_dict().values()))
    assert before[3] == snapshot(model)[3]
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_second_moments_leave_no_hook_when_the_forward_fails():
    model = build("mlp")
    with pytest.raises(ZeroDivisionError):
        second_moments(model, SemuConfig(), lambda: 1 / 0)
    assert not any(m._forward_pre_hooks for m in model.modules())


# The remain geometry


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 50.0])
def test_remain_is_euclidean_where_the_kept_inputs_are_isotropic(shape, scale):
    G = with_spectrum([5, 3, 2, 1, 0.5], *shape)
    plain, remain = truncate(G, 0.95), truncate_remain(G, scale * torch.eye(shape[1]), 0.95, None, 0.0)
    assert remain.rank == plain.rank
    torch.testing.assert_close(remain.S * scale**0.5, plain.S, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(remain.V.norm(dim=0), torch.ones(plain.rank), rtol=1e-4, atol=0)
    for ours, theirs in ((remain.U, plain.U), (remain.V, plain.V)):
        torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_remain_is_orthogonal_in_the_metric(shape, damping):
    G, C = torch.randn(shape), moments(shape[1])
    basis = truncate_remain(G, C, 0.99, None, damping)
    size = C.diagonal().mean()
    damped = C + damping * size * torch.eye(len(C), dtype=torch.float64)
    eye = torch.eye(basis.rank, dtype=torch.float64)
    V = basis.V.double()
    torch.testing.assert_close(V.T @ damped @ V / size, eye, rtol=0, atol=1e-4)
    torch.testing.assert_close(basis.U.T @ basis.U, eye.float(), rtol=0, atol=1e-5)
    # A second way: the SVD of G C^(-1/2), with the root from an eigendecomposition.
    values, Q = torch.linalg.eigh(damped)
    root = Q * values.rsqrt() @ Q.T
    expected = torch.linalg.svdvals(G.double() @ root)[: basis.rank]
    torch.testing.assert_close(basis.S.double(), expected, rtol=1e-4, atol=0)
    assert basis.energy >= 0.99


def test_remain_survives_few_kept_inputs_and_a_gradient_of_low_rank():
    rows = torch.randn(3, 10)
    G = with_spectrum([2, 1], 6, 10)
    basis = truncate_remain(G, rows.T @ rows / 3, 0.999, None, 0.01)
    assert basis.rank <= 2 and basis.V.isfinite().all()
    assert truncate_remain(G, torch.zeros(10, 10), 0.9, None, 0.01).U.isfinite().all()


def test_remain_forgets_with_less_harm():
    for _ in range(10):
        G, C = torch.randn(8, 12), moments(12, 1000.0)

        def harm(basis, G=G, C=C):
            """How far the update U diag(S) V^T moves the kept outputs, per unit of forgetting <G, D>."""
            D = (basis.U * basis.S @ basis.V.T).double()
            return (D @ C @ D.T).trace().item() / inner(G, D) ** 2

        for rank in (1, 3, 8):
            assert harm(truncate_remain(G, C, 1.0, rank, 1e-3)) < 0.7 * harm(truncate(G, 1.0, rank))


def test_remain_at_full_rank_is_the_optimum():
    G, C = torch.randn(5, 7), moments(7)
    basis = truncate_remain(G, C, 1.0, None, 0.0)
    D = (basis.U * basis.S @ basis.V.T).double()
    best = G.double() @ torch.linalg.inv(C)  # minimises tr(D C D^T) at a given <G, D>
    torch.testing.assert_close(D / D.norm(), best / best.norm(), rtol=0, atol=1e-4)


# Extending a basis


# Learning rates


@pytest.mark.parametrize("rank", [1, 4, 16, 64])
@pytest.mark.parametrize("size", [0.01, 10.0])
def test_a_first_adam_step_has_the_same_relative_size_at_every_rank(rank, size):
    """|dW|_2 / (|W|_F / sqrt(min(m, n))) lies in [1, 2.5] lr: Adam's first dR is lr times a matrix of signs, whose
    spectral norm is 1 at rank 1 and at most about 2 sqrt(r) for a random gradient; |dR|_F is lr sqrt(r) units."""
    layer = SemuLinear(nn.Linear(96, 64, bias=False), "default")
    layer.base_layer.weight.data *= size
    layer.set_basis("default", orthonormal(64, rank).float(), orthonormal(96, rank).float())
    groups, lr = param_groups(nn.Sequential(layer), 0.01), 0.01
    optimizer = torch.optim.Adam(groups)
    (layer(torch.eye(96)) * torch.randn(96, 64)).sum().backward()
    optimizer.step()
    unit = layer.base_layer.weight.norm() / 64**0.5
    step = layer.get_delta_weight("default")
    assert 0.99 * lr <= torch.linalg.matrix_norm(step, 2) / unit <= 2.5 * lr
    assert (step.norm() / unit).item() == pytest.approx(lr * rank**0.5, rel=1e-3)


def test_param_groups_hold_each_R_of_one_adapter():
    model, _ = random_adapter("cnn")
    model.get_submodule("head").base_layer.weight.data.zero_()
    groups = param_groups(model, 0.5)
    layers = [m for m in model.modules() if isinstance(m, SemuLayer)]
    assert [g["params"][0] for g in groups] == [layer.semu_R["default"] for layer in layers]
    for group, layer in zip(groups[:-1], layers):
        W, V = layer.base_layer.weight.detach().flatten(1), layer.semu_V["default"]
        column = (V.norm() / V.shape[1] ** 0.5).item()
        assert group["lr"] == pytest.approx(0.5 * W.norm().item() / (min(W.shape) * 2) ** 0.5 / column, rel=1e-5)
    last = layers[-1].semu_V["default"]
    assert groups[-1]["lr"] == pytest.approx(0.5 / (last.norm() / last.shape[1] ** 0.5).item())  # no weight to scale by
    assert param_groups(model, 0.5, "absent") == []


# Finding and installing


def test_find_bases_is_the_chain_of_its_parts():
    model, config = build("cnn"), SemuConfig(gamma=0.8, max_rank=3, gamma_pattern={"head": 1.0})
    bases = find_bases(model, config, lambda: loss(model).backward())
    G = gradients(model, config, lambda: loss(model).backward())
    for name, basis in bases.items():
        W = model.get_submodule(name).weight.flatten(1).double()
        P = G[name].double() - (G[name].double() * W).sum() / W.square().sum() * W
        U, S, Vh = torch.linalg.svd(P.detach(), full_matrices=False)
        r = min(smallest_rank(S, 1.0 if name == "head" else 0.8), 3)
        actual = (basis.U * basis.S @ basis.V.T).double()
        torch.testing.assert_close(actual, U[:, :r] * S[:r] @ Vh[:r], rtol=1e-3, atol=1e-5)


def test_find_bases_remain_uses_the_kept_inputs():
    model, config = build("mlp"), SemuConfig(geometry="remain", damping=0.05)
    bases = find_bases(model, config, lambda: loss(model).backward(), lambda: predict(model, 1))
    C = second_moments(model, config, lambda: predict(model, 1))
    for name, basis in bases.items():
        c = C[name].double()
        size = c.diagonal().mean()
        damped = c + 0.05 * size * torch.eye(len(c))
        V = basis.V.double()
        torch.testing.assert_close(V.T @ damped @ V / size, torch.eye(basis.rank).double(), rtol=0, atol=1e-4)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x) + 0 * self.idle(x)


def test_layers_without_gradient_have_no_basis():
    model, x = Branch(), torch.randn(4, 3)
    assert list(find_bases(model, SemuConfig(), lambda: model(x).square().sum().backward())) == ["used"]


def nan_loss(model):
    (predict(model).sum() * torch.nan).backward()


@pytest.mark.parametrize(
    ("config", "backward", "message"),
    [
        ({"target_modules": ["absent"]}, lambda m: loss(m).backward(), "no Linear or Conv2d layer that target_modules"),
        ({}, lambda m: None, "no gradient in any targeted layer"),
        ({}, lambda m: (0 * loss(m)).backward(), "no gradient in any targeted layer"),
        ({}, nan_loss, "gradient of first is not finite"),
        ({"geometry": "remain"}, lambda m: loss(m).backward(), "pass `forward`"),
    ],
    ids=["no layer", "no backward", "zero", "nan", "remain"],
)
def test_find_bases_errors(config, backward, message):
    model = build("mlp")
    with pytest.raises(ValueError, match=re.escape(message)):
        find_bases(model, SemuConfig(**config), lambda: backward(model))


def some_bases(rank=2, names=("first", "head")):
    layers = find_layers(build("mlp"), SemuConfig())
    return {k: truncate(torch.randn(layers[k].weight.flatten(1).shape), 1.0, rank) for k in names}


@pytest.mark.parametrize("how", ["peft", "injected"])
def test_install_bases_unwraps_the_rest_and_sets_the_ranks(how):
    config, bases = SemuConfig(), some_bases()
    if how == "peft":
        model = get_peft_model(build("mlp"), config)
        inner_model = model.get_base_model()
    else:
        model = inner_model = inject_adapter_in_model(config, build("mlp"))
        model.peft_config = {"default": config}
    install_bases(model, bases)
    assert isinstance(inner_model.first, SemuLinear) and type(inner_model.second) is nn.Linear
    assert model.peft_config["default"].ranks == {"first": 2, "head": 2}
    assert model.peft_config["default"].target_modules == ["first", "head"]
    layer = inner_model.head
    assert torch.equal(layer.semu_U["default"], bases["head"].U)
    assert torch.equal(layer.semu_V["default"], bases["head"].V)
    assert not layer.semu_R["default"].any() and layer.semu_R["default"].requires_grad


def test_install_bases_of_one_adapter_leaves_the_other():
    model = get_peft_model(build("mlp"), SemuConfig())
    install_bases(model, some_bases(names=("first", "second", "head")))
    model.add_adapter("more", SemuConfig())
    install_bases(model, some_bases(1), "more")
    layers = {k: m for k, m in model.get_base_model().named_modules() if isinstance(m, SemuLayer)}
    assert {k: m.r for k, m in layers.items()} == {
        "first": {"default": 2, "more": 1},
        "second": {"default": 2},
        "head": {"default": 2, "more": 1},
    }
    assert model.peft_config["default"].ranks == {"first": 2, "second": 2, "head": 2}
    assert model.peft_config["more"].ranks == {"first": 1, "head": 1}


@pytest.mark.parametrize("order", [("semu", "lora"), ("lora", "semu")], ids=" in ".join)
def test_install_bases_beside_a_lora(order):
    model, config = build("mlp"), SemuConfig()
    for kind in order:
        chosen = config if kind == "semu" else LoraConfig(target_modules=["first", "second"])
        inject_adapter_in_model(chosen, model, kind)
        model.peft_config = {}
    model.peft_config = {"semu": config}
    install_bases(model, some_bases(), "semu")
    assert config.ranks == {"first": 2, "head": 2}
    assert sum(isinstance(m, SemuLayer) for m in model.modules()) == 2
    assert sum(isinstance(m, LoraLayer) for m in model.modules()) == 2
    assert torch.equal(predict(model), predict(build("mlp")))


def test_install_bases_names_an_unknown_layer():
    model = get_peft_model(build("mlp"), SemuConfig(target_modules=["head"]))
    with pytest.raises(ValueError, match="no SEMU layer first with adapter 'default'"):
        install_bases(model, some_bases())
