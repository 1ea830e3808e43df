"""The bare name in what was given as a concept."""

from __future__ import annotations

from .files import is_file
from .language import bare, singular


def strip_style(concept: str) -> tuple[str, bool]:
    """The concept without what says that it is a style ("sepia style", "the style of Monet"), and whether it did."""
    words = " ".join(concept.split())
    low = words.lower()
    for lead in ("in the style of ", "the style of ", "style of ", "art by ", "paintings by ", "a painting by "):
        if low.startswith(lead):
            return words[len(lead) :], True
    if low.endswith((" art style", " style")) or low == "style":
        return words[: low.rindex(" art style" if low.endswith(" art style") else "style")].strip(), True
    return words, False


def name_of(concept: str) -> str:
    """The bare name: "sepia" for "sepia style", "dog" for "a dog" and "dogs", "Van Gogh" as it is."""
    name, styled = strip_style(concept)
    name = bare(name)
    if styled or not name or is_file(concept):
        return name
    return singular(name)
