"""Concept Ablation: Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023
(arXiv 2303.13516)."""

from __future__ import annotations

import torch

from semu_diffusion.diffusion.states import ANCHOR, EMPTY

from .work import Budget, Edited, Work, size, update


def concept_ablation(
    pipe, concept: str, budget: Budget, seed: int, lr: float = 1e-4, scope: str = "keys-values", regular: float = 1.0
) -> Edited:
    """The model-based variant (eq. 4): eps(x_t, c) is led to eps(x_t, c*) at noised pictures of the anchor c*.

    `regular` weighs the loss that keeps the anchor's own prediction there. The paper's default trains the keys and
    values of cross-attention; its other choice is all weights.
    """
    work = Work(pipe, concept, budget, seed, keep=False, steer="anchor")
    parameters, n = work.parameters(scope), budget.batch_size
    anchors = work.states.of_kind(ANCHOR)
    anchors = anchors if len(anchors) else work.states.of_kind(EMPTY)  # the anchor is the empty prompt
    optimizer = torch.optim.Adam(parameters.values(), lr)
    for _ in work.rounds(2 * n):
        index = work.pick(work.forget, n)
        update(optimizer, work.distance(index, work.targets(index)) + regular * work.drift(work.pick(anchors, n)))
    return work.done(size(parameters))
