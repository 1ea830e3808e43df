"""What updates do to the inputs that their layers see: r x r sums against the dense second moments of those inputs."""

import copy

import pytest
import torch
from adapters import adapted_model
from models import predict

from semu_diffusion.adapter import SemuConfig
from semu_diffusion.adapter.effects import effects
from semu_diffusion.adapter.merging import updates_of
from semu_diffusion.adapter.moments import Root, second_moments
from semu_diffusion.adapter.shrink import shrink
from semu_diffusion.adapter.updates import compress
from semu_diffusion.adapter.weights import semu_layers

DAMPING = 0.01


def dense_moments(model):
    config = SemuConfig(ranks={name: layer.r["default"] for name, layer in semu_layers(model).items()})
    return second_moments(model, config, lambda: [predict(model, k) for k in range(2)])


@pytest.mark.parametrize("kind", ["mlp", "cnn", "unet"])
def test_the_sums_are_V_C_V_of_the_dense_moments(kind):
    """Linear layers, convolutions with groups, strides, dilation and any padding."""
    model = adapted_model(kind)
    C, found = dense_moments(model), effects(model, lambda: [predict(model, k) for k in range(2)], DAMPING)
    assert set(found) == set(updates_of(model))
    for name, update in updates_of(model).items():
        damped = C[name].double() + DAMPING * C[name].diagonal().double().mean() * torch.eye(len(C[name]))
        V = update.V.double()
        expected = V.T @ damped @ V
        torch.testing.assert_close(found[name].T @ found[name], expected, rtol=0, atol=1e-5 * expected.abs().max())


def test_an_adapter_is_truncated_as_by_the_dense_moments():
    model = adapted_model("cnn")
    C, before = dense_moments(model), updates_of(copy.deepcopy(model))
    small = shrink(model, 0.9, effects=effects(model, lambda: [predict(model, k) for k in range(2)], DAMPING))
    assert small.ranks[1] < small.ranks[0]
    for name, update in updates_of(model).items():
        basis, core = compress(*before[name], 0.9, Root(C[name], DAMPING).times(before[name].V))
        assert basis.rank == len(update.R)
        expected = basis.U @ core @ basis.V.T
        torch.testing.assert_close(update.U @ update.R @ update.V.T, expected, rtol=0, atol=1e-4 * expected.abs().max())


def test_layers_that_see_nothing_are_left_to_the_plain_norm_and_no_hook_stays():
    model = adapted_model("mlp")
    assert effects(model, lambda: None, DAMPING) == {}
    with pytest.raises(ZeroDivisionError):
        effects(model, lambda: 1 / 0, DAMPING)
    assert not any(layer._forward_pre_hooks for layer in semu_layers(model).values())
