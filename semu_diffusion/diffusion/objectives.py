"""What the model shall predict for a forgotten prompt, and the losses.

All targets are affine combinations of predictions at the same (x_t, t), so they hold in the model's own prediction
type: epsilon, v and flow alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # not for --help, which names the objectives
    import torch


def redirect(concept: torch.Tensor, anchor: torch.Tensor, empty: torch.Tensor, strength: float) -> torch.Tensor:
    """The frozen model's answer to the anchor, pushed on by `strength` of the way from the concept to it.

    strength 0 is the random-label loss of SalUn and SEMU (arXiv 2502.07587): eps(x_t | c') itself.
    """
    return anchor - strength * (concept - anchor)


def negative_guidance(
    concept: torch.Tensor, anchor: torch.Tensor, empty: torch.Tensor, strength: float
) -> torch.Tensor:
    """ESD (arXiv 2303.07345, eq. 7): eps(x_t) - strength * (eps(x_t | c) - eps(x_t)), away from the empty prompt."""
    return empty - strength * (concept - empty)


OBJECTIVES = {"redirect": redirect, "negative": negative_guidance}


def squared_error(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over all values of (predicted - target)^2, in fp32; with weights (B,), their weighted mean over samples."""
    error = (predicted.float() - target.float()).square().flatten(1).mean(1)  # (B,)
    return error.mean() if weight is None else (error * weight).sum() / weight.sum()


def remaining_share(predicted: torch.Tensor, concept: torch.Tensor, target: torch.Tensor) -> tuple[float, float]:
    """How much of the way from the concept to the target is still to go: numerator and denominator of the share.

    <predicted - target, concept - target> / ||concept - target||^2 is 1 for the untouched model and 0 where the
    prediction has reached the target, whatever else has changed at right angles to that way.
    """
    direction = (concept - target).float()
    return ((predicted.float() - target.float()) * direction).sum().item(), direction.square().sum().item()
