"""Lasting rounds: on pictures of the concept the answers are pushed so far away that training is long in undoing it.

Fine-tuning on pictures of the concept sees these noised, under the concept's name, and nothing else. What it has to
make up for is the distance of the model's answers there; the answer to another prompt, which plain forgetting asks for,
is near. So in these rounds the forgetting target is far past the anchor wherever the concept already shows, and stays
where it was on the way that the erased model takes itself, so that what it draws remains a proper picture. A far target
counts less, or it would drown the near ones and what is kept.
"""

from __future__ import annotations

import torch

PUSH = 8.0  # distances from concept to anchor
FAINT, CLEAR = 0.1, 0.4  # how much of the concept shows where the push begins, and where it is whole


def strengths(plain: float, shown: torch.Tensor) -> torch.Tensor:
    """How far past the anchor (N,) records go, of which so much of the concept shows (N,), in [0, 1]."""
    return plain + (max(PUSH, plain) - plain) * ((shown - FAINT) / (CLEAR - FAINT)).clamp(0, 1)


def weights(strength: torch.Tensor) -> torch.Tensor:
    """What records with targets so far past the anchor (N,) count: 1 at the anchor, less beyond.

    The squared error grows by (1 + strength)^2. By its whole root far targets are as near as others and soon undone.
    """
    return (1 + strength) ** -0.5
