"""The words that a model is known to draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .language import names
from .naming import name_of


@dataclass(frozen=True)
class Vocabulary:
    """Words that a model is known to draw, from which keep prompts and contexts are made.

    common: Whether these are everybody's words rather than ones that the model brought with it.
    """

    subjects: tuple[str, ...]
    styles: tuple[str, ...]
    common: bool = False

    def without(self, concepts: list[str] | tuple[str, ...]) -> Vocabulary:
        """The words that name none of the concepts, alone or among others ("cup of coffee" names "coffee")."""
        gone = [name for c in concepts if (name := name_of(c))]
        left = lambda words: tuple(w for w in words if not names(w, gone))  # noqa: E731
        return Vocabulary(left(self.subjects), left(self.styles), self.common)


# For models that bring no vocabulary.json of their own: everyday things and styles that any text-to-image model knows.
COMMON = Vocabulary(
    subjects=(
        "person", "man", "woman", "child", "dog", "cat", "horse", "bird", "fish", "butterfly", "tree", "flower",
        "mountain", "beach", "city street", "house", "church", "bridge", "car", "bicycle", "airplane", "boat", "train",
        "chair", "table", "lamp", "book", "clock", "guitar", "cup of coffee", "apple", "pizza", "cake", "garden",
    ),
    styles=("photo", "oil painting", "watercolor", "pencil sketch", "cartoon", "pixel art"),
    common=True,
)  # fmt: skip


def vocabulary_of(model: str | Path) -> Vocabulary:
    """The `vocabulary.json` of a model folder, or the common one. ValueError where it is damaged."""
    from ...adapter.claims import read_json  # brings PEFT, which nobody shall wait for who asks for --help

    file = Path(model) / "vocabulary.json"
    if not file.is_file():
        return COMMON
    words = read_json(file)
    lists = [words.get(key) for key in ("subjects", "styles")] if isinstance(words, dict) else [None]
    if not all(isinstance(own, list) and all(isinstance(word, str) for word in own) for own in lists):
        raise ValueError(f"{file} must hold two lists of words, subjects and styles")
    return Vocabulary(*map(tuple, lists))
