"""Forget-Me-Not: Zhang et al., 2023 (arXiv 2303.17591): attention re-steering."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import torch
from torch import nn

from semu_diffusion.diffusion.erasers.tokens import positions

from .work import Budget, Edited, Work, size, update


def forget_me_not(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "image", lr: float = 3e-5, steps: int = 35
) -> Edited:
    """Algorithm 1: gradient steps on the squared attention that pictures pay to the concept's tokens.

    Nothing is kept, so more `steps` than the authors' 35 forget everything in the end; as many as the budget pays for
    are taken at most.
    """
    work = Work(pipe, concept, budget, seed, prompts, keep=False, steer="concept")
    parameters, n = work.parameters("cross-attention"), 2 * budget.batch_size
    marks = concept_marks(work)
    optimizer = torch.optim.Adam(parameters.values(), lr)
    with attention_maps(work.model) as maps:
        for _ in itertools.islice(work.rounds(n), steps):
            index = work.pick(work.forget, n)
            maps.clear()
            work.predict(index)
            update(optimizer, steering_loss(maps, marks[work.states.prompt[index]]))
    return work.done(size(parameters))


def concept_marks(work: Work) -> torch.Tensor:
    """(P, tokens): 1 at the concept's tokens of each prompt that names it."""
    tokenizer, marks = work.pipe.tokenizer, torch.zeros(len(work.contexts.rows), work.pipe.tokenizer.model_max_length)
    for prompt in {pair.prompt for pair in work.pairs} & set(work.contexts.rows):
        marks[work.contexts.rows[prompt], positions(tokenizer, prompt, work.names)] = 1
    return marks.to(work.device)


def steering_loss(maps: list[torch.Tensor], marks: torch.Tensor) -> torch.Tensor:
    """Mean over layers of the mean squared attention to marked tokens; maps (B heads, pixels, tokens), marks (B, T)."""
    losses = []
    for A in maps:
        chosen = marks.repeat_interleave(len(A) // len(marks), 0)[:, None]  # (B heads, 1, T)
        losses.append((A.square() * chosen).sum() / (chosen.sum() * A.shape[1]))
    return torch.stack(losses).mean()


@contextlib.contextmanager
def attention_maps(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects the cross-attention probabilities of each forward pass, computed beside it, with gradients."""
    maps: list[torch.Tensor] = []

    def watch(attention: nn.Module, args: tuple, kwargs: dict) -> None:
        x, text = args[0], kwargs["encoder_hidden_states"]
        query, key = (attention.head_to_batch_dim(f(v)) for f, v in ((attention.to_q, x), (attention.to_k, text)))
        maps.append(attention.get_attention_scores(query, key))

    found = [m for name, m in model.named_modules() if name.endswith("attn2")]
    handles = [m.register_forward_pre_hook(watch, with_kwargs=True) for m in found]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
