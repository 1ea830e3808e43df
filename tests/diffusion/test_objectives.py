"""The closed forms of targets and losses."""

import pytest
import torch

from semu_diffusion.diffusion.objectives import OBJECTIVES, negative_guidance, redirect, remaining_share, squared_error


@pytest.fixture
def predictions():
    return torch.randn(3, 2, 4, 8, 8).unbind()  # concept, anchor, empty


def test_strength_zero_is_the_anchor_or_the_empty_prompt(predictions):
    concept, anchor, empty = predictions
    assert torch.equal(redirect(concept, anchor, empty, 0.0), anchor)
    assert torch.equal(negative_guidance(concept, anchor, empty, 0.0), empty)


def test_strength_one_is_the_mirror_image(predictions):
    concept, anchor, empty = predictions
    torch.testing.assert_close(redirect(concept, anchor, empty, 1.0), 2 * anchor - concept)
    torch.testing.assert_close(negative_guidance(concept, anchor, empty, 1.0), 2 * empty - concept)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_targets_are_affine(name, predictions):
    """Weights that sum to 1: the same shift of all predictions shifts the target, so any prediction type will do."""
    shifted = [p + 3 for p in predictions]
    torch.testing.assert_close(OBJECTIVES[name](*shifted, 0.7), OBJECTIVES[name](*predictions, 0.7) + 3)


def test_squared_error():
    a, b = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert squared_error(a, b).item() == 2.5
    assert squared_error(a, b, torch.tensor([1.0, 0.0])).item() == 5
    assert squared_error(a, b, torch.tensor([1.0, 3.0])).item() == 1.25
    assert squared_error(a.half(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_remaining_share(predictions, strength):
    concept, anchor, empty = predictions
    share = lambda predicted: torch.tensor(remaining_share(predicted, concept, anchor))  # noqa: E731
    over, under = share(concept)
    assert over == under
    assert share(anchor)[0] == 0
    over, under = share(redirect(concept, anchor, empty, strength))
    assert over / under == pytest.approx(-strength, abs=1e-5)
