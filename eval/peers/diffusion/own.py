"""The prompts that the authors of a method use themselves: (prompt, anchor) to forget, and what to keep."""

from __future__ import annotations

import random

from semu_diffusion.diffusion.concepts import Pair, Vocabulary, kind_of, name_of, with_article

OWN = ("name", "expanded", "image")
EXPANDED = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")  # UCE's, for objects
EXPANDED_STYLE = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")  # and for artists


def own_prompts(kind: str, concept: str, vocabulary: Vocabulary, count: int, seed: int) -> tuple[list[Pair], list[str]]:
    """Pairs to forget and `count` prompts to keep.

    Args:
        kind: "name" (ESD, LECO: the concept's name alone, against nothing), "expanded" (UCE's `expand_prompts`: the
            name and five phrases with it, against the same with nothing) or "image" ("an image of a knife" against the
            same with one other thing: SalUn, which takes the next class for that, SEMU and SFR-on, which build on its
            code, FADE, Concept Ablation, Selective Amnesia, Forget-Me-Not).

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in OWN:
        raise ValueError(f"prompts must be one of shared, {', '.join(OWN)}, got {kind!r}")
    style, rng = kind_of(concept, vocabulary) == "style", random.Random(seed)
    name = name_of(concept)
    said = f"{name} style" if style else name
    words = list(vocabulary.styles if style else vocabulary.subjects)
    others = rng.sample(sorted(w for w in words if w != name), len(words) - (name in words))
    kept = [imaged(w, style) for w in others] + [imaged(w, not style) for w in
                                                 (vocabulary.subjects if style else vocabulary.styles)]  # fmt: skip
    keep = [kept[k % len(kept)] for k in range(count)]
    if kind == "name":
        return [Pair(said, "")], keep
    if kind == "expanded":
        forms = EXPANDED_STYLE if style else EXPANDED
        return [Pair(said, ""), *(Pair(form.format(name), form.format("").strip()) for form in forms)], keep
    return [Pair(imaged(name, style), imaged(others[0], style))], keep


def imaged(word: str, style: bool) -> str:
    """ "an image of a knife", "an image in neon style"."""
    return f"an image in {word} style" if style else f"an image of {with_article(word)}"
