"""SEMU as published: Sendera et al., ICML 2025 (arXiv 2502.07587), with the rules of its released code.

What differs from this package: the gradient is that of the denoising loss on noised pictures of the concept; it is not
projected, and where that is asked for, the projection divides by ||W||, not by ||W||^2; a convolution has one basis
per input channel; the rank is the number of components whose cumulative energy is at most gamma, which may be 0, with
gamma 1 for every attention layer; the target is the anchor's prediction of the model under training.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from semu_diffusion.adapter import SemuConfig
from semu_diffusion.adapter.gradients import gradients
from semu_diffusion.adapter.model import find_layers

from .pictures import clean_latents, noising_errors
from .work import HALF, Budget, Edited, Work, update

NOISED = 256  # pictures over which the forgetting gradient is summed


class Update(nn.Module):
    """W + U (R * mask) V as a parametrization; U (B, m, r), R (B, r, r), V (B, r, k), one of B per input channel."""

    def __init__(self, U: torch.Tensor, V: torch.Tensor, ranks: torch.Tensor):
        super().__init__()
        r = U.shape[-1]
        inside = torch.arange(r, device=U.device) < ranks[:, None]  # (B, r)
        self.register_buffer("U", U)
        self.register_buffer("V", V)
        self.register_buffer("mask", (inside[:, :, None] & inside[:, None]).to(U.dtype))
        self.R = nn.Parameter(torch.zeros(len(U), r, r, device=U.device))

    def forward(self, W: torch.Tensor) -> torch.Tensor:
        delta = self.U @ (self.R * self.mask) @ self.V  # (B, m, k)
        return W + delta.transpose(0, 1).reshape(W.shape)


def semu_published(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "image", lr: float = 1e-3,
    keep_weight: float = 1.0, gamma: float = 0.95, gamma_attention: float = 1.0, projected: bool = False,
) -> Edited:  # fmt: skip
    """Random-label loss in the published basis; keep_weight 0 is its setting without remaining data."""
    work = Work(pipe, concept, budget, seed, prompts, anchor="random", keep=keep_weight > 0, steer="concept")
    updates = install(work, gamma, gamma_attention, projected)
    parameters = [u.R for u in updates.values()]
    optimizer, n = torch.optim.Adam(parameters, lr), budget.batch_size
    for _ in work.rounds((3 if keep_weight else 2) * n):
        update(optimizer, moving_loss(work, work.pick(work.forget, n)) + kept_loss(work, keep_weight, n))
    for name in updates:
        parametrize.remove_parametrizations(work.model.get_submodule(name), "weight", leave_parametrized=True)
    trained = sum(int(u.mask.sum()) for u in updates.values())
    return work.done(trained, HALF * sum(shipped(u) for u in updates.values()))


def moving_loss(work: Work, index: torch.Tensor) -> torch.Tensor:
    """||eps(x_t | c) - eps(x_t | c')||^2, the second without gradient."""
    rows = work.contexts[[anchor_of(work)[row] for row in work.states.prompt[index].tolist()]]
    with torch.no_grad():
        target = work.predict(index, rows)
    return work.distance(index, target)


def anchor_of(work: Work) -> dict[int, str]:
    """Row of each of the concept's prompts -> its anchor."""
    return {work.contexts.rows[p.prompt]: p.anchor for p in work.pairs if p.prompt in work.contexts.rows}


def kept_loss(work: Work, weight: float, n: int) -> torch.Tensor | float:
    """The keep loss where it counts."""
    return weight * work.drift(work.pick_kept(n)) if weight else 0.0


def install(work: Work, gamma: float, gamma_attention: float, projected: bool) -> dict[str, Update]:
    """Puts the update on every layer whose basis is not empty; only R is trainable."""
    G, updates = denoising_gradients(work), {}
    for name, layer in find_layers(work.model, SemuConfig(target_modules=".*")).items():
        if name in G:
            W = layer.weight.detach()
            own = G[name].reshape(W.shape)
            own = project(own, W) if projected else own
            U, V, ranks = basis(own, gamma_attention if "attn" in name else gamma)
            if ranks.max() > 0:
                updates[name] = Update(U, V, ranks)
    if not updates:
        raise ValueError("the published rank rule leaves every layer without a basis; raise gamma")
    for name, own in updates.items():
        parametrize.register_parametrization(work.model.get_submodule(name), "weight", own)
    work.model.requires_grad_(False)
    for own in updates.values():
        own.R.requires_grad_(True)
    return updates


def denoising_gradients(work: Work) -> dict[str, torch.Tensor]:
    """Gradients (m, n) by layer of the training loss, summed over noised pictures of the concept."""
    latents, rows = clean_latents(work)
    n = min(NOISED, len(work.forget))

    def backward() -> None:
        for part in torch.arange(n).split(2 * work.budget.batch_size):
            noising_errors(work, latents, rows, len(part)).sum().backward()

    return gradients(work.model, SemuConfig(target_modules=".*"), backward)


def project(G: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """G - <G, W> / ||W|| W, as in the released code: orthogonal to W only where ||W|| = 1."""
    return G - (G * W).sum() / W.norm().clamp_min(1e-30) * W


def basis(G: torch.Tensor, gamma: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U (B, m, r), V (B, r, k) and ranks (B,) of a gradient (m, n), B = 1, or (m, B, kh, kw), truncated to the most."""
    blocks = G[None] if G.ndim == 2 else G.transpose(0, 1).flatten(2)  # (B, m, k)
    U, S, V = torch.linalg.svd(blocks, full_matrices=False)
    ranks = published_ranks(S, gamma)
    r = max(1, int(ranks.max()))
    return U[..., :r].contiguous(), V[:, :r].contiguous(), ranks


def published_ranks(S: torch.Tensor, gamma: float) -> torch.Tensor:
    """#{i: energy of the first i components <= gamma} for singular values (B, r): searchsorted(side="right")."""
    energy = S.square().cumsum(1) / S.square().sum(1, keepdim=True).clamp_min(1e-30)
    return torch.searchsorted(energy, torch.full_like(energy[:, :1], gamma), right=True)[:, 0].clamp_max(S.shape[1])


def shipped(own: Update) -> int:
    """The fewest numbers that carry a layer's update: its factors, or the dense difference."""
    ranks = own.mask.diagonal(dim1=1, dim2=2).sum(1)  # (B,)
    m, k = own.U.shape[1], own.V.shape[2]
    return int(min((ranks * (m + k + ranks)).sum(), len(ranks) * m * k))
