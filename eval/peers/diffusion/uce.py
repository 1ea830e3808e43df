"""UCE: Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024 (arXiv 2308.14761)."""

from __future__ import annotations

import torch

from .tokens import aligned
from .work import Budget, Edited, Work, size


def uce(
    pipe, concept: str, budget: Budget, seed: int, erase: float = 1.0, keep: float = 1.0, damping: float = 0.1
) -> Edited:
    """Solves for the keys and values of cross-attention in closed form (eq. 7); the denoiser is never run.

    Args:
        erase, keep: Weights of the edited and of the preserved embeddings; both sums are divided by their counts.
        damping: Weight of the old W itself, relative to the mean square of an embedding's value.
    """
    work = Work(pipe, concept, budget, seed, draw=False)
    tokenizer = pipe.tokenizer
    old, new, kept = embeddings(work, tokenizer)
    parameters = work.parameters("keys-values")
    with torch.no_grad():
        for W in parameters.values():
            W.copy_(solve(W, old, new, kept, erase, keep, damping))
    return work.done(size(parameters))


def embeddings(work: Work, tokenizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings (N, d) of the concept's tokens, those (N, d) to answer them with, and those (K, d) to preserve."""
    sides = [work.family.encode([getattr(p, side) for p in work.pairs])["text"] for side in ("prompt", "anchor")]
    places = [aligned(tokenizer, pair, work.concept) for pair in work.pairs]
    old = torch.cat([sides[0][i, [a for a, _ in own]] for i, own in enumerate(places)])
    new = torch.cat([sides[1][i, [b for _, b in own]] for i, own in enumerate(places)])
    anchors = list(dict.fromkeys(p.anchor for p in work.pairs))
    kept = work.family.encode(list(dict.fromkeys([*work.keep_prompts, *anchors, ""])))["text"]
    return old, new, kept.flatten(0, 1)


def solve(
    W: torch.Tensor, old: torch.Tensor, new: torch.Tensor, kept: torch.Tensor, erase: float, keep: float, damping: float
) -> torch.Tensor:
    """argmin_X erase mean|X c - W c*|^2 + keep mean|X c_k - W c_k|^2 + lambda |X - W|^2, in fp64.

    W (m, d); old, new (N, d); kept (K, d). X = (erase V^T C + keep W K^T K + lambda W) (erase C^T C + keep K^T K +
    lambda)^-1, with rows as embeddings and V = new W^T.
    """
    weight, c, s, k = (part.double() for part in (W, old, new, kept))
    C, K = erase * c.T @ c / len(c), keep * k.T @ k / len(k)
    ridge = damping * k.square().mean() * torch.eye(W.shape[1], dtype=torch.float64, device=W.device)
    right = weight @ (erase * s.T @ c / len(c) + K + ridge)  # (m, d)
    return torch.linalg.solve(C + K + ridge, right.T).T.to(W.dtype)
