"""Attacks by prompt: words never used in training, and free tokens found by their gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..diffusion.concepts import TEMPLATES, kind_of, name_of
from ..pictograms.words import SYNONYMS, article
from .target import Noised, Pictures, Target

# Ways to say it that `diffusion.concepts.TEMPLATES`, from which erasing takes its prompts, does not have.
PARAPHRASES = (
    "show {a}, {style}",
    "{style} drawing of {a}",
    "one {o} done in {style}",
    "this is {a} and the style is {style}",
    "{style} {o}",
)


def paraphrases(concept: str, contexts: list[str], vocabulary, synonyms: list[str] | None = None) -> list[str]:
    """The concept in other sentences, and in the usual ones by other names.

    Args:
        contexts: Words of the other kind: styles for an object, objects for a style.
        synonyms: Other names; default: what the pictograms know.
    """
    name, is_object = name_of(concept), kind_of(concept, vocabulary) != "style"
    fill = lambda form, word, c: form.format(  # noqa: E731
        a=article(word if is_object else c), o=word if is_object else c, style=c if is_object else word
    )
    prompts = [fill(form, name, c) for form in PARAPHRASES for c in contexts]
    names = [SYNONYMS[name]] if synonyms is None and name in SYNONYMS else synonyms or []
    return prompts + [fill(TEMPLATES[0][0], other, c) for other in names for c in contexts]


@dataclass
class Found:
    """Ids (T,) of the prompt with its free tokens, these as text, and the loss before and after each swap."""

    ids: torch.Tensor
    text: str
    losses: list[float]


def search_prompt(
    target: Target,
    prompt: str,
    pictures: Pictures,
    free: int = 5,
    iterations: int = 30,
    candidates: int = 16,
    samples: int = 8,
    seed: int = 0,
) -> Found:
    """Free tokens before a prompt that make the model denoise given pictures of the concept as if it knew it.

    The loss is that of UnlearnDiffAtk (arXiv 2310.11868, eq. 5): the training loss on noised pictures of the concept.
    Tokens are swapped as in GCG (arXiv 2307.15043, algorithm 1): the gradient of the one-hot tokens proposes swaps,
    the best of `candidates` is taken if it lowers the loss. The noised pictures stay the same, so it never rises.
    """
    generator = torch.Generator().manual_seed(seed)
    noised, allowed = target.noised(pictures, samples, generator), words(target)
    start = allowed[torch.randint(len(allowed), (free,), generator=generator)]
    ids = with_free(target, prompt, start)
    losses = [batch_loss(target, noised, ids[None])[0].item()]
    for _ in range(iterations):
        swaps = propose(target, noised, ids, free, allowed, candidates, generator)
        values = batch_loss(target, noised, swaps).nan_to_num(nan=torch.inf)  # a NaN would hide the others
        if values.min() < losses[-1]:
            ids = swaps[values.argmin()]
        losses.append(min(values.min().item(), losses[-1]))
    return Found(ids, target.pipe.tokenizer.decode(ids[1 : 1 + free].tolist()), losses)


def words(target: Target) -> torch.Tensor:
    """Ids of all tokens but the special ones."""
    special = set(target.pipe.tokenizer.all_special_ids)
    return torch.tensor([k for k in range(len(target.embeddings)) if k not in special], device=target.device)


def with_free(target: Target, prompt: str, free: torch.Tensor) -> torch.Tensor:
    """Ids (T,) of start token, free tokens and prompt; what does not fit is cut off before the end token.

    Raises:
        ValueError: the free tokens alone fill the prompt.
    """
    ids = target.ids([prompt])[0]
    if len(free) > len(ids) - 3:
        raise ValueError(f"{len(free)} free tokens do not fit into prompts of {len(ids)} tokens")
    joined = torch.cat([ids[:1], free.to(ids), ids[1:]])[: len(ids)].clone()
    joined[-1] = ids[-1] if ids[-1] == target.pipe.tokenizer.pad_token_id else target.pipe.tokenizer.eos_token_id
    return joined


def token_gradient(target: Target, noised: Noised, ids: torch.Tensor, free: int) -> torch.Tensor:
    """Gradient of the loss by the one-hot free tokens, (free, V)."""
    embeds = target.embeddings[ids].detach().clone().requires_grad_(True)  # (T, d)
    text = target.encode(ids[None], embeds[None])
    target.loss(noised, text.expand(len(noised.x), -1, -1)).backward()
    return embeds.grad[1 : 1 + free] @ target.embeddings.T


def propose(
    target: Target, noised: Noised, ids: torch.Tensor, free: int, allowed: torch.Tensor, count: int, generator
) -> torch.Tensor:
    """`count` prompts (count, T), each with one free token swapped for one that the gradient likes."""
    liked = token_gradient(target, noised, ids, free)[:, allowed].argsort(1)[:, : max(count, 8)]  # (free, k)
    places = torch.randint(free, (count,), generator=generator)
    picks = torch.randint(liked.shape[1], (count,), generator=generator)
    swaps = ids.repeat(count, 1)
    swaps[torch.arange(count), 1 + places] = allowed[liked[places, picks]]
    return swaps


@torch.no_grad()
def batch_loss(target: Target, noised: Noised, prompts: torch.Tensor) -> torch.Tensor:
    """The loss of each of some prompts (P, T) on the same noised pictures, (P,)."""
    text, n = target.encode(prompts), len(noised.x)
    each = [(target.family.predict(noised.x, noised.t, {"text": own.expand(n, -1, -1)}) - noised.truth) for own in text]
    return torch.stack([error.float().square().mean() for error in each])
