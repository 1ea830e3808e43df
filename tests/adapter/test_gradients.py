"""Gradients from inputs and output gradients against autograd's, weights of quantised layers, and shared moments."""

import pytest
import torch
from models import build, loss
from quantised import KINDS, MADE, needs
from torch import nn
from torch.utils.checkpoint import checkpoint

from semu_diffusion.adapter import SemuConfig, find_layers, gradients
from semu_diffusion.adapter.base_layers import (
    compute_dtype,
    is_adaptable,
    is_quantised,
    matrix_shape,
    measured_weight,
    weight_matrix,
)
from semu_diffusion.adapter.gradients import LossScale, NotFinite
from semu_diffusion.adapter.moments import second_moments
from semu_diffusion.adapter.subspace import find_bases

ALL = SemuConfig()


@pytest.fixture
def tapped(monkeypatch):
    """No weight has its gradient from autograd."""
    monkeypatch.setattr(gradients, "is_differentiable", lambda layer: False)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_taps_equal_autograd(name, monkeypatch):
    model = build(name)
    truth = gradients.gradients(model, ALL, lambda: loss(model).backward())
    monkeypatch.setattr(gradients, "is_differentiable", lambda layer: False)
    found = gradients.gradients(model, ALL, lambda: loss(model).backward())
    assert found.keys() == truth.keys() == find_layers(model, ALL).keys()
    for key in truth:
        torch.testing.assert_close(found[key], truth[key], rtol=1e-4, atol=1e-6)
    assert not any(p.grad is not None for p in model.parameters()) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("options", [
    {"padding": (2, 1), "stride": 2}, {"padding": "same", "dilation": 2}, {"groups": 2, "padding": 1},
    {"padding": 1, "padding_mode": "circular"},
])  # fmt: skip
def test_taps_of_convolutions(options, tapped):
    conv = nn.Conv2d(4, 6, 3, **options)
    x = torch.randn(2, 4, 9, 8)
    found = gradients.gradients(conv, ALL, lambda: conv(x).square().sum().backward())
    conv(x).square().sum().backward()
    torch.testing.assert_close(found[""], conv.weight.grad.flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_taps_under_gradient_checkpointing(reentrant, tapped):
    model = nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3))
    x = torch.randn(4, 5, requires_grad=True)
    found = gradients.gradients(
        model, ALL, lambda: checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    )
    model(x).square().sum().backward()
    for name, layer in find_layers(model, ALL).items():
        torch.testing.assert_close(found[name], layer.weight.grad)


def test_half_precision_gradients_add_up_in_fp32():
    layer = nn.Linear(4, 4, dtype=torch.bfloat16)
    big, small = torch.full((1, 4), 16.0).bfloat16(), torch.full((1, 4), 0.03125).bfloat16()

    def backward():
        for x in (big, *[small] * 64):
            layer(x).sum().backward()

    G = gradients.gradients(layer, ALL, backward)[""]
    assert G.dtype == torch.float32
    torch.testing.assert_close(G, torch.full((4, 4), 18.0))  # in bf16 the small ones would all be rounded away


def test_a_scale_is_made_smaller_until_nothing_overflows():
    layer, scale = nn.Linear(4, 3, dtype=torch.float16), LossScale(2.0**20)
    x = torch.randn(8, 4).half()
    bases = find_bases(
        layer, SemuConfig(gamma=1.0), lambda: (scale.value * layer(x).float().sum()).backward(), scale=scale
    )
    assert 1 < scale.value < 2.0**20 and bases[""].rank
    with pytest.raises(NotFinite, match="not finite"):
        find_bases(layer, ALL, lambda: (2.0**20 * layer(x).float().sum()).backward())


def test_fewer_than_half_of_the_layers_are_an_error():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    with pytest.raises(
        ValueError, match=r"only 2 of 5 targeted layers, none in 2, 3, 4; load the model in bf16 or fp32"
    ):
        find_bases(model, ALL, lambda: model[1](model[0](torch.randn(3, 4))).square().sum().backward())


# -------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("kind", [*MADE, *(k for k in KINDS if k.startswith("quanto"))])
def test_the_weight_of_a_quantised_layer(kind):
    needs(kind)
    plain = nn.Linear(128, 64)
    layer = MADE[kind](plain) if kind in MADE else frozen(kind, plain)
    assert is_adaptable(layer) and is_quantised(layer) and not is_quantised(plain)
    assert matrix_shape(layer) == (64, 128)
    x = torch.randn(3, 128)
    with torch.no_grad():
        layer(x)  # some change their storage with the first call
        W, measured = weight_matrix(layer), measured_weight(layer)
    assert W.dtype == torch.float32 and W.shape == (64, 128)
    assert (W - plain.weight).norm() < (0.15 if "4" in kind else 0.01) * plain.weight.norm()
    assert (measured - W).norm() < 0.01 * W.norm()  # the one way without the library's help


def frozen(kind, layer):
    """quanto's own layer."""
    import optimum.quanto as quanto

    new = quanto.QLinear.from_module(layer, weights=getattr(quanto, f"q{kind.removeprefix('quanto-')}"))
    new.freeze()
    return new


def test_a_quantised_convolution_gets_its_gradient():
    needs("quanto-int8")
    import optimum.quanto as quanto

    plain = nn.Conv2d(8, 6, 3, padding=1)
    layer = quanto.QConv2d.from_module(plain, weights=quanto.qint8)
    layer.freeze()
    x = torch.randn(2, 8, 5, 5)
    G = gradients.gradients(layer, ALL, lambda: layer(x).square().sum().backward())[""]
    plain(x).square().sum().backward()
    assert (G - plain.weight.grad.flatten(1)).norm() < 0.02 * G.norm()
    assert (weight_matrix(layer) - plain.weight.flatten(1)).norm() < 0.01 * plain.weight.norm()


def test_what_is_no_layer_for_an_adapter():
    attention = nn.MultiheadAttention(8, 2)
    assert not is_adaptable(attention.out_proj) and not is_adaptable(nn.Embedding(3, 4))


class PackedLinear(nn.Module):
    """As those of libraries that PEFT knows: no nn.Linear, no `weight`."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("packed", layer.weight.detach().T.contiguous())
        self.register_buffer("bias", layer.bias.detach())

    def forward(self, x):
        return x @ self.packed + self.bias


def test_a_linear_of_an_unknown_library():
    plain = nn.Linear(6, 4)
    layer = PackedLinear(plain)
    assert is_adaptable(layer) and is_quantised(layer)
    torch.testing.assert_close(weight_matrix(layer), plain.weight.detach())
    model, x = nn.Sequential(layer, nn.Linear(4, 2)), torch.randn(5, 6)
    found = gradients.gradients(model, ALL, lambda: model(x).square().sum().backward())
    nn.Sequential(plain, model[1])(x).square().sum().backward()
    torch.testing.assert_close(found["0"], plain.weight.grad)


def test_the_dtype_of_a_model_is_that_of_most_of_it():
    model = nn.Sequential(nn.Linear(64, 64, dtype=torch.bfloat16), nn.LayerNorm(64))
    assert compute_dtype(model) == torch.bfloat16 and compute_dtype(nn.Identity()) == torch.float32


# -------------------------------------------------------------------------------------------- moments


class Attention(nn.Module):
    """q, k and v, of which k and v may be given something else."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 4) for _ in "qkv")

    def forward(self, x, other=None):
        other = x if other is None else other
        return self.q(x), self.k(other), self.v(other)


def test_layers_of_the_same_input_share_their_moments():
    model, parts = Attention(), torch.randn(3, 5, 6)
    C = second_moments(model, ALL, lambda: [model(x) for x in parts])
    assert C["q"] is C["k"] is C["v"]
    torch.testing.assert_close(C["q"], parts.flatten(0, 1).T @ parts.flatten(0, 1) / 15)
    others = torch.randn(3, 2, 6)
    C = second_moments(model, ALL, lambda: [model(x, y) for x, y in zip(parts, others)])
    assert C["q"] is not C["k"] and C["k"] is C["v"]
    torch.testing.assert_close(C["k"], others.flatten(0, 1).T @ others.flatten(0, 1) / 6)


def test_a_layer_that_shares_only_at_first_has_its_own():
    model, x, y = Attention(), torch.randn(5, 6), torch.randn(4, 6)
    C = second_moments(model, ALL, lambda: [model(x), model(x, y)])
    both = torch.cat([x, y])
    torch.testing.assert_close(C["k"], both.T @ both / 9)
    torch.testing.assert_close(C["q"], x.T @ x / 5)


def test_an_input_changed_in_place_is_another_one():
    model, x = Attention(), torch.randn(5, 6)

    def forward():
        model.q(x)
        model.k(x.mul_(2))

    C = second_moments(model, ALL, forward)
    torch.testing.assert_close(C["k"], 4 * C["q"])


@pytest.mark.parametrize("sketch", [None, 3])
def test_on_the_host_the_bases_are_the_same(sketch):
    model = build("mlp")
    config = SemuConfig(gamma=0.9, geometry="remain")
    run = lambda on_host: find_bases(  # noqa: E731
        model, config, lambda: loss(model).backward(), lambda: loss(model), sketch, on_host=on_host
    )
    here, there = run(False), run(True)
    for key in here:
        torch.testing.assert_close(there[key].U.abs(), here[key].U.abs(), rtol=1e-3, atol=1e-4)


def test_autocast_changes_no_sum():
    model, x = Attention(), torch.randn(50, 6)
    truth = second_moments(model, ALL, lambda: model(x))
    with torch.autocast("cpu", torch.bfloat16):
        found = second_moments(model, ALL, lambda: model(x))
    assert torch.equal(found["q"], truth["q"])
