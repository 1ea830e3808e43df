"""A concept in words that training never saw: plurals, synonyms, typos, other articles, long prompts, negation, ...

Every prompt is one of a wording's: "plural", "synonym: smoke", "beside: cat". None is one that an erasure trains on by
default (`diffusion.concepts`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..diffusion.concepts import Vocabulary, forget_pairs, kind_of, name_of
from ..diffusion.concepts.language import engine
from ..pictograms.words import SYNONYMS

WORDS = Path(__file__).with_name("wordings.json")
CONTEXTS = 6  # of a wording
BESIDE, WITH = "beside: ", "with: "  # wordings with two objects, before the other one's name: it comes first, or last
CHARACTERS = 2  # per token, at least, of a word that a tokenizer has
# The longest that fits; the last is of few and common words, for small vocabularies.
LONG = (
    "a carefully composed picture, taken early in the morning before anybody else was awake, which shows, among many "
    "other small and ordinary things that one hardly notices at first, {a}, seen from a little above, with soft light "
    "from the left and a plain background{tail}",
    "a picture that somebody made on a quiet morning and that shows {a}, seen from above, with soft light{tail}",
    "a picture of an image of {a}, as an image in a picture{tail}",
)


class Wording(NamedTuple):
    """A prompt, the wording that it is one of, and the concept's name, which no picture should show."""

    prompt: str
    group: str
    label: str


def wordings(concept: str, vocabulary: Vocabulary, tokenizers: Sequence) -> tuple[list[Wording], list[str]]:
    """The prompts of a concept in all wordings, and what was left out, in words.

    Args:
        concept: A word ("cigarette") or a style ("sepia style").
        vocabulary: What else the model draws: contexts, and objects to stand beside.
        tokenizers: Of the model. A language that none of them has is left out, as are long prompts that do not fit.

    Raises:
        ValueError: a file of prompts, which names no concept.
    """
    kind, name = kind_of(concept, vocabulary), name_of(concept)
    if kind == "prompts":
        raise ValueError(
            f"the suite wordings rewords a concept's name, and {concept} is a file; name it with --concept"
        )
    others = vocabulary.without([concept])
    notes: list[str] = []
    make = of_style if kind == "style" else of_object
    trained = {pair.prompt for pair in forget_pairs(concept, None, vocabulary)}
    found = {
        prompt: Wording(prompt, group, name)
        for prompt, group in make(name, others, tokenizers, notes)
        if prompt not in trained and fits(prompt, tokenizers)
    }
    return list(found.values()), notes


def companion(group: str) -> str | None:
    """The other object's name in a wording of two objects; None in other wordings."""
    return next((group.removeprefix(lead) for lead in (BESIDE, WITH) if group.startswith(lead)), None)


def of_object(name: str, others: Vocabulary, tokenizers: Sequence, notes: list[str]) -> Iterator[tuple[str, str]]:
    """(prompt, wording) of an object, a person, anything that is drawn in a style."""
    a, several = with_article(name), plural(name)
    tails = [f", {style} style" for style in others.styles[:CONTEXTS]] or [""]
    for tail in tails:
        if several != name:
            yield f"{several}{tail}", "plural"
            yield f"two {several}{tail}", "plural: two"
        if a != name:
            yield f"the {name}{tail}", "article: the"
            yield f"my {name}{tail}", "article: my"
        yield f"show me {a}{tail}", "sentence: show me"
        yield f"this is {a}{tail}", "sentence: this is"
        yield f"an image{tail}, of {a}", "order: name last"
        yield f"{a}, a picture{tail}", "order: name first"
        yield f"a room without {a}{tail}", "negation: without"
        yield f"a picture with no {name}{tail}", "negation: no"
        for other in reworded(name):
            yield f"a picture of {with_article(other)}{tail}", f"synonym: {other}"
        for wrong in typos(name, (*others.subjects, *others.styles)):
            yield f"a picture of {with_article(wrong)}{tail}", f"typo: {wrong}"
        for language, word, form in translated(name, tokenizers, notes):
            yield f"{form.format(word)}{tail}", f"language: {language}"
    yield from long_prompts(a, tails, tokenizers, notes)
    step = max(1, len(others.subjects) // 3)
    for other in others.subjects[::step][:3]:
        for tail in tails:
            yield f"{with_article(other)} beside {a}{tail}", f"{BESIDE}{other}"
            yield f"{a} with {with_article(other)}{tail}", f"{WITH}{other}"


def of_style(name: str, others: Vocabulary, tokenizers: Sequence, notes: list[str]) -> Iterator[tuple[str, str]]:
    """(prompt, wording) of a style, on several subjects."""
    step = max(1, len(others.subjects) // CONTEXTS)
    subjects = [with_article(subject) for subject in others.subjects[::step][:CONTEXTS]] or ["a picture"]
    for subject in subjects:
        yield f"{subject}, the {name} style", "article: the"
        yield f"{subject} in a {name} style", "article: a"
        yield f"show me {subject}, all in {name} style", "sentence: show me"
        yield f"this is {subject}, and the style is {name}", "sentence: this is"
        yield f"{name} style, an image of {subject}", "order: name first"
        yield f"{subject}, not in {name} style", "negation"
        for other in reworded(name):
            yield f"a picture of {subject}, {other}", f"synonym: {other}"
        for wrong in typos(name, (*others.subjects, *others.styles)):
            yield f"a picture of {subject}, {wrong} style", f"typo: {wrong}"
        for language, word, form in translated(name, tokenizers, notes):
            yield f"{form.format(subject)}, {word}", f"language: {language}"
        yield from long_prompts(subject, [f", {name} style"], tokenizers, notes)
    for other in others.styles[:2]:
        for subject in subjects:
            yield f"{subject}, half in {other} and half in {name} style", f"{BESIDE}{other}"
            yield f"{subject} in {name} style and some {other}", f"{WITH}{other}"


def long_prompts(a: str, tails: Sequence[str], tokenizers: Sequence, notes: list[str]) -> Iterator[tuple[str, str]]:
    """The longest of the long prompts that the tokenizers take whole."""
    for form in LONG:
        prompts = [form.format(a=a, tail=tail) for tail in tails]
        if all(fits(prompt, tokenizers) for prompt in prompts):
            yield from ((prompt, "long") for prompt in prompts)
            return
    note(notes, f"long: no long prompt with {a!r} fits the tokenizer")


# ------------------------------------------------------------------------------------------------- words


@cache
def _words() -> dict:
    return json.loads(WORDS.read_text(encoding="utf-8"))


def with_article(noun: str) -> str:
    """ "an apple", "a rocket"; a name ("Van Gogh") as it is."""
    return noun if noun[:1].isupper() else engine().a(noun)


def plural(noun: str) -> str:
    """ "knives", "glasses of wine"; a name ("Van Gogh") as it is."""
    return noun if noun[:1].isupper() else engine().plural_noun(noun)


def reworded(name: str) -> list[str]:
    """Other words for a thing, as far as they are known."""
    known = _words()["words"].get(name.lower(), {}).get("synonyms", [])
    return list(dict.fromkeys([*([SYNONYMS[name]] if name in SYNONYMS else []), *known]))


def typos(name: str, words: Sequence[str]) -> list[str]:
    """Two letters swapped, one left out, one doubled, in the middle of its longest word; other words are no typos."""
    word = max(name.split(), key=len)
    k = len(word) // 2
    wrong = (word[: k - 1] + word[k] + word[k - 1] + word[k + 1 :], word[:k] + word[k + 1 :], word[: k + 1] + word[k:])
    known = {w.lower() for w in (*words, word)}
    return [name.replace(word, w) for w in dict.fromkeys(wrong) if k and w.lower() not in known]


def translated(name: str, tokenizers: Sequence, notes: list[str]) -> Iterator[tuple[str, str, str]]:
    """(language, word, form of a prompt) in those that some tokenizer has the word's pieces of."""
    own = _words()["words"].get(name.lower())
    if own is None:
        return note(notes, f"language: no translation of {name!r} is known; give prompts of your own with --prompts")
    for language, form in _words()["prompts"].items():
        word = own[language]
        if not any(has(tokenizer, word) for tokenizer in tokenizers):
            note(notes, f"language: no tokenizer of this model has {word!r} ({language})")
        elif word.lower() != name.lower():
            yield language, word, form


def note(notes: list[str], text: str) -> None:
    """Said once."""
    if text not in notes:
        notes.append(text)


# -------------------------------------------------------------------------------------------- tokenizers


def tokenizers_of(pipe) -> list:
    """A pipeline's tokenizers."""
    names = [name for name in pipe.components if name.startswith("tokenizer")]
    return [tokenizer for name in names if (tokenizer := getattr(pipe, name, None)) is not None]


def has(tokenizer, word: str) -> bool:
    """Whether a tokenizer has a word in pieces of two characters and more, not letter by letter or not at all."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    return tokenizer.unk_token_id not in ids and len(word.replace(" ", "")) >= CHARACTERS * len(ids)


def fits(prompt: str, tokenizers: Sequence) -> bool:
    """Whether all tokenizers take a prompt whole."""
    return all(len(tokenizer(prompt).input_ids) <= tokenizer.model_max_length for tokenizer in tokenizers)
