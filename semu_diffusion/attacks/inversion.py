"""Textual inversion of an erased concept: CCE, "Circumventing Concept Erasure", ICLR 2024 (arXiv 2308.01508)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..diffusion.concepts import name_of
from .target import Pictures, Target


@dataclass
class Inverted:
    """The learned embeddings (k, d) that stand where the concept's k tokens stood, and the loss per step."""

    embedding: torch.Tensor
    losses: list[float] = field(default_factory=list)


def name_places(target: Target, ids: torch.Tensor, concept: str) -> torch.Tensor:
    """Where the concept's name stands in prompts (N, T): (N, k).

    Raises:
        ValueError: a prompt that does not name it.
    """
    name = target.pipe.tokenizer(name_of(concept), add_special_tokens=False).input_ids
    windows = ids.unfold(1, len(name), 1)  # (N, T - k + 1, k)
    hits = (windows == torch.tensor(name, device=ids.device)).all(2)
    if not hits.any(1).all():
        raise ValueError(f"textual inversion needs prompts that name {name_of(concept)!r}")
    return hits.int().argmax(1)[:, None] + torch.arange(len(name), device=ids.device)


def states(target: Target, prompts: list[str], concept: str, embedding: torch.Tensor) -> torch.Tensor:
    """Text states (N, T, d) of prompts in which the concept's name is replaced by the embedding (k, d)."""
    ids = target.ids(prompts)
    places, embeds = name_places(target, ids, concept), target.embeddings[ids].detach().clone()
    embeds[torch.arange(len(ids), device=ids.device)[:, None], places] = embedding.to(embeds)
    return target.encode(ids, embeds)


def invert(
    target: Target,
    concept: str,
    pictures: Pictures,
    steps: int = 300,
    lr: float = 5e-3,
    batch: int = 16,
    seed: int = 0,
    named: bool = False,
) -> Inverted:
    """Learns the embedding by the training loss on given pictures of the concept; nothing else is trained.

    Args:
        named: Start from the embeddings of the concept's name; otherwise from the mean of all tokens, so that the name
            is not used.
    """
    generator = torch.Generator().manual_seed(seed)
    name = target.pipe.tokenizer(name_of(concept), add_special_tokens=False).input_ids
    vectors = target.embeddings.detach()
    embedding = (vectors[name] if named else vectors.mean(0).repeat(len(name), 1)).clone().requires_grad_(True)
    optimizer, found = torch.optim.Adam([embedding], lr), Inverted(embedding)
    for _ in range(steps):
        noised = target.noised(pictures, batch, generator)
        text = states(target, [pictures.prompts[k] for k in noised.picture.tolist()], concept, embedding)
        loss = target.loss(noised, text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.losses.append(loss.item())
    found.embedding = embedding.detach()
    return found
