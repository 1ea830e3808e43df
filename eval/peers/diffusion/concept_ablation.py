"""Concept Ablation: Kumari et al., "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023
(arXiv 2303.13516)."""

from __future__ import annotations

from semu_diffusion.diffusion.erasers import eraser_of

from .work import Budget, Edited, Work

OWN = "image"


def concept_ablation(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = OWN, lr: float = 3e-4, regular: float = 1.0
) -> Edited:
    """The model-based variant, keys and values of cross-attention: `semu erase --method concept-ablation`."""
    work = Work(pipe, concept, budget, seed, prompts, draw=False, cost=2 * budget.batch_size,
                method="concept-ablation", lr=lr, keep_weight=regular)  # fmt: skip
    return work.added(eraser_of("concept-ablation").edit(work))
