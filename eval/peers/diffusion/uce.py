"""UCE: Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024 (arXiv 2308.14761)."""

from __future__ import annotations

from semu_diffusion.diffusion.erasers import eraser_of

from .work import Budget, Edited, Work

OWN = "expanded"


def uce(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = OWN, keep: float = 0.3, preserved: bool = True
) -> Edited:
    """The closed form, from which the denoiser is never run: `semu erase --method uce`.

    Args:
        keep: Weight of what is preserved, for that of what is edited as 1.
        preserved: Whether other prompts are preserved; else only the empty one and the anchors, and W itself.
    """
    work = Work(pipe, concept, budget, seed, prompts, draw=False, method="uce", keep_weight=keep)
    if not preserved:
        work.kept_prompts = []
    return work.added(eraser_of("uce").edit(work))
