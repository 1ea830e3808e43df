"""Which tokens of a prompt carry a concept, and which tokens of its anchor stand in their place."""

from __future__ import annotations

from collections.abc import Sequence

from ..concepts import Pair, forms


def content(tokenizer, prompt: str) -> list[int]:
    """Ids of the words alone."""
    return tokenizer(prompt, add_special_tokens=False).input_ids[: tokenizer.model_max_length - 2]


def positions(tokenizer, prompt: str, names: Sequence[str]) -> list[int]:
    """Places of a concept's name in the padded prompt, the start token being 0; all words where none is there.

    Its plural is its name as well. Of several concepts the first that is there counts.
    """
    ids = content(tokenizer, prompt)
    for form in (content(tokenizer, form) for name in names for form in (name, *forms(name))):
        for k in range(len(ids) - len(form) + 1):
            if form and ids[k : k + len(form)] == form:
                return list(range(1 + k, 1 + k + len(form)))
    return list(range(1, 1 + len(ids)))


def aligned(tokenizer, pair: Pair, names: Sequence[str]) -> list[tuple[int, int]]:
    """(place in the prompt, place in the anchor) for every token whose embedding the concept can have changed.

    A causal text encoder's embeddings before the concept's name know nothing of it. From there to the words that both
    prompts end with, all are led to the anchor's last word before these; the common words, the end token and the
    padding are led to their own counterparts.
    """
    own, other = content(tokenizer, pair.prompt), content(tokenizer, pair.anchor)
    start = positions(tokenizer, pair.prompt, names)[0] - 1
    common, most = 0, min(len(own) - start - 1, len(other))
    while common < most and own[-1 - common] == other[-1 - common]:
        common += 1
    last = len(other) - common  # the place of the word before, as the start token stands at 0
    pairs = [(1 + k, last) for k in range(start, len(own) - common)]
    ends = range(tokenizer.model_max_length - max(len(own), len(other)) - 1)  # end token and padding
    pairs += [(1 + len(own) - common + k, 1 + len(other) - common + k) for k in range(common)]
    return pairs + [(1 + len(own) + k, 1 + len(other) + k) for k in ends]
