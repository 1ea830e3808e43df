"""From a word to prompts: what to forget, what to draw instead, what to keep."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from pathlib import Path

from ..adapter.claims import read_json
from ..inputs.tables import PROMPT, column, is_table, read_table, text_of
from ..pictograms.words import article

# (subject and style, subject alone, style alone): {a} is the subject with its article, {o} without.
TEMPLATES = (
    ("a picture of {a} in {style} style", "a picture of {a}", "a picture in {style} style"),
    ("{a} in {style} style", "{a}", "{style} style"),
    ("a {style} picture of {a}", "an image of {a}", "a {style} picture"),
    ("{o} {style}", "{o}", "{style}"),
    ("an image of {a} in {style} style", "an image of {a}", "an image in {style} style"),
)


@dataclass(frozen=True)
class Vocabulary:
    """Words that a model is known to draw, from which keep prompts and contexts are made."""

    subjects: tuple[str, ...]
    styles: tuple[str, ...]

    def without(self, concepts: list[str]) -> Vocabulary:
        """The words that name none of the concepts, alone or among others ("cup of coffee" names "coffee")."""
        names = "|".join(re.escape(name_of(c)) for c in concepts)
        left = lambda words: tuple(w for w in words if not names or not re.search(rf"\b({names})\b", w, re.IGNORECASE))  # noqa: E731, E501
        return Vocabulary(left(self.subjects), left(self.styles))


# For models that bring no vocabulary.json of their own: everyday things and styles that any text-to-image model knows.
COMMON = Vocabulary(
    subjects=(
        "person", "man", "woman", "child", "dog", "cat", "horse", "bird", "fish", "butterfly", "tree", "flower",
        "mountain", "beach", "city street", "house", "church", "bridge", "car", "bicycle", "airplane", "boat", "train",
        "chair", "table", "lamp", "book", "clock", "guitar", "cup of coffee", "apple", "pizza", "cake", "garden",
    ),
    styles=("photo", "oil painting", "watercolor", "pencil sketch", "cartoon", "pixel art"),
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A prompt that draws the concept and the prompt that it shall be answered with."""

    prompt: str
    anchor: str


def vocabulary_of(model: str | Path) -> Vocabulary:
    """The `vocabulary.json` of a model folder, or the common one. ValueError where it is damaged."""
    file = Path(model) / "vocabulary.json"
    if not file.is_file():
        return COMMON
    words = read_json(file)
    lists = [words.get(key) for key in ("subjects", "styles")] if isinstance(words, dict) else [None]
    if not all(isinstance(own, list) and all(isinstance(word, str) for word in own) for own in lists):
        raise ValueError(f"{file} must hold two lists of words, subjects and styles")
    return Vocabulary(*map(tuple, lists))


def strangers(concepts: list[str], vocabulary: Vocabulary) -> list[str]:
    """Those of the concepts that name no word of the vocabulary that a model brought with it."""
    words = {w.lower() for w in (*vocabulary.subjects, *vocabulary.styles)}
    named = [c for c in concepts if kind_of(c, vocabulary) != "prompts"]
    return [] if vocabulary == COMMON else [c for c in named if name_of(c).lower() not in words]


def phrase(subject: str | None, style: str | None, template: int = 0) -> str:
    """The prompt for a subject, a style, or both; "" for neither."""
    if subject is None and style is None:
        return ""
    form = TEMPLATES[template % len(TEMPLATES)][0 if subject and style else 1 if subject else 2]
    return form.format(a=article(subject or ""), o=subject, style=style)


def kind_of(concept: str, vocabulary: Vocabulary) -> str:
    """ "style" for "... style" and the vocabulary's styles, "prompts" for a file of them, else "object"."""
    if is_table(concept):
        return "prompts"
    return "style" if concept.endswith(" style") or concept.lower() in map(str.lower, vocabulary.styles) else "object"


def name_of(concept: str) -> str:
    """The concept's bare name: "sepia" for "sepia style"."""
    return concept.removesuffix(" style").strip()


def read_prompts(file: str | Path) -> list[str]:
    """The prompts of a text file, one a line, or of a csv, tsv or jsonl. ValueError where there are none."""
    rows = read_table(file) if Path(file).is_file() else []
    texts = [text_of(row, column(rows, PROMPT, file), file) for row in rows]
    if not any(texts):
        raise ValueError(f"no prompts in {file}: expected a text file with one prompt a line")
    return [text for text in texts if text]


def forget_pairs(concept: str, anchor: str | None, vocabulary: Vocabulary, seed: int = 0) -> list[Pair]:
    """Prompts of a concept, each with its anchor prompt.

    Args:
        concept: A word ("cigarette"), a style ("sepia style"), or a .txt file of prompts.
        anchor: "" for the same prompt without the concept, "random" for a random other concept of its kind (SalUn's
            random label), or what to draw instead. None is "random" for a style, as a prompt that names none draws
            any style, the unwanted one too; and "" for all else.

    Raises:
        ValueError: an empty concept, an empty file, a prompt that equals its anchor, or no word for a random one.
    """
    if not name_of(concept):
        raise ValueError("the concept is empty; name what to forget, e.g. --concept cigarette")
    kind, rng = kind_of(concept, vocabulary), random.Random(seed)
    if anchor is None:
        anchor = "random" if kind == "style" and vocabulary.without([concept]).styles else ""
    if kind == "prompts":
        prompts = read_prompts(concept)
        pairs = [Pair(p, rng.choice(vocabulary.subjects) if anchor == "random" else anchor) for p in prompts]
    else:
        pairs = _word_pairs(name_of(concept), kind, name_of(anchor) or None, vocabulary, rng)
    same = next((p for p in pairs if p.prompt.strip() == p.anchor.strip()), None)
    if same:
        raise ValueError(f"the concept's prompt and its anchor are the same ({same.prompt!r}); choose another --anchor")
    return pairs


def _word_pairs(word: str, kind: str, anchor: str | None, vocabulary: Vocabulary, rng: random.Random) -> list[Pair]:
    """The word in every context of the other kind (and alone), over all templates."""
    own, contexts = (
        (vocabulary.subjects, vocabulary.styles) if kind == "object" else (vocabulary.styles, vocabulary.subjects)
    )
    others = [w for w in own if w.lower() != word.lower()]
    if anchor == "random" and not others:
        raise ValueError(f"the model's vocabulary has no other {kind} for a random anchor; name one with --anchor")
    fill = (lambda w, c, k: phrase(w, c, k)) if kind == "object" else (lambda w, c, k: phrase(c, w, k))
    pairs = []
    for template, context in itertools.product(range(len(TEMPLATES)), (None, *contexts)):
        instead = rng.choice(others) if anchor == "random" else anchor
        pairs.append(Pair(fill(word, context, template), fill(instead, context, template)))
    return list(dict.fromkeys(pairs))


def keep_prompts(concepts: list[str], vocabulary: Vocabulary, count: int, seed: int = 0) -> list[str]:
    """Prompts of what must stay: subjects x styles without the concepts, every word about equally often."""
    words = vocabulary.without(concepts)
    subjects, styles = list(words.subjects) or [None], list(words.styles) or [None]
    if subjects == styles == [None]:
        raise ValueError("no word of the model's vocabulary is left to keep; give prompts with --keep")
    rng = random.Random(seed)
    rng.shuffle(subjects)
    rng.shuffle(styles)
    deck = [(s, styles[(i + k) % len(styles)]) for k in range(len(styles)) for i, s in enumerate(subjects)]
    prompts, even = [], len(subjects) % 2 == 0
    for k in range(count):
        subject, style = deck[k % len(deck)]
        # An even number of subjects would be in step with the eight: the same ones would go without each time.
        turn = (k + even * (k // len(subjects))) % 8
        if subject and style:  # one in eight without style, one in eight without subject
            subject, style = None if turn == 7 else subject, None if turn == 3 else style
        prompts.append(phrase(subject, style, rng.randrange(len(TEMPLATES))))
    return prompts
