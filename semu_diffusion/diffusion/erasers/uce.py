"""UCE: Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024 (arXiv 2308.14761)."""

from __future__ import annotations

import torch

from ...adapter.base_layers import weight_matrix
from .registry import Eraser
from .task import Task
from .tokens import aligned
from .training import layers_of

DAMPING = 0.1


def uce(task: Task) -> dict[str, torch.Tensor]:
    """Solves for the keys and values of cross-attention in closed form (eq. 7); the denoiser is never run."""
    old, new, kept = embeddings(task)
    layers = layers_of(task)
    task.callback.stage("keys and values", len(layers))
    deltas = {}
    for name, layer in layers.items():
        W = weight_matrix(layer)
        if W.shape[1] != old.shape[1]:
            raise ValueError(f"uce edits what reads the text, and {name} reads {W.shape[1]} values of {old.shape[1]}")
        deltas[name] = solve(W, old, new, kept, task.config.keep_weight) - W
        task.callback.advance()
    return deltas


def embeddings(task: Task) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings (N, d) of the concepts' tokens, those (N, d) to answer them with, and those (K, d) to preserve."""
    tokenizer, pairs = task.pipe.tokenizer, task.pairs
    sides = [task.family.encode([getattr(p, side) for p in pairs])["text"] for side in ("prompt", "anchor")]
    places = [aligned(tokenizer, pair, task.names) for pair in pairs]
    old = torch.cat([sides[0][i, [a for a, _ in own]] for i, own in enumerate(places)])
    new = torch.cat([sides[1][i, [b for _, b in own]] for i, own in enumerate(places)])
    anchors = list(dict.fromkeys(p.anchor for p in pairs))
    kept = task.family.encode(list(dict.fromkeys([*task.kept_prompts, *anchors, ""])))["text"]
    return old, new, kept.flatten(0, 1)


def solve(
    W: torch.Tensor, old: torch.Tensor, new: torch.Tensor, kept: torch.Tensor, keep: float, damping: float = DAMPING
) -> torch.Tensor:
    """argmin_X mean|X c - W c*|^2 + keep (mean|X c_k - W c_k|^2 + damping mean(c_k^2) |X - W|^2), in fp64.

    W (m, d); old c, new c* (N, d); kept c_k (K, d). The paper's eq. 7, both sums divided by their counts, and its
    weight of the old W itself relative to the mean square of an embedding's value.
    """
    place = "cpu" if W.device.type == "mps" else W.device  # which knows no fp64
    weight, c, s, k = (part.to(place).double() for part in (W, old, new, kept))
    C, K = c.T @ c / len(c), keep * k.T @ k / len(k)
    ridge = keep * damping * k.square().mean() * torch.eye(W.shape[1], dtype=torch.float64, device=place)
    right = weight @ (s.T @ c / len(c) + K + ridge)  # (m, d)
    return torch.linalg.solve(C + K + ridge, right.T).T.to(W)


UCE = Eraser(
    title="UCE",
    paper="arXiv 2308.14761",
    edit=uce,
    families=("StableDiffusion", "StableDiffusionXL", "LatentConsistency"),
    takes=("anchor", "prompts", "keep", "near", "keep_latents", "keep_weight"),
    defaults={"target_modules": "keys-values", "keep_weight": 0.3, "compress": 0.99},
)
