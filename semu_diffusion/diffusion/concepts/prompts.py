"""From a concept to prompts: what to forget, what to draw instead, what to keep."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass

from .files import read_rows
from .kinds import KINDS, PRESETS, Concept, Frame, concept_of
from .language import STOP_WORDS, bare, names, plural, proper, with_article
from .naming import name_of
from .vocabulary import Vocabulary

# For models that bring their words, as captions put them. (subject and style, subject alone, style alone): {a} is the
# subject with its article, {o} without.
TEMPLATES = (
    ("a picture of {a} in {style} style", "a picture of {a}", "a picture in {style} style"),
    ("{a} in {style} style", "{a}", "{style} style"),
    ("a {style} picture of {a}", "an image of {a}", "a {style} picture"),
    ("{o} {style}", "{o}", "{style}"),
    ("an image of {a} in {style} style", "an image of {a}", "an image in {style} style"),
)
# An object in sentences that no caption has. What such a model makes of these is often no picture of anything, so they
# are answered by what it draws well: the anchor in the first of the templates. Each style has every second of them:
# with all, which are half of the prompts, the nearest other objects give way.
LOOSE = (
    "one {o}, {style} style",
    "{style} style, that is {a}",
    "there is {a} here, {style} style",
    "a new {o}, {style} style",
    "look at your {o}, {style} style",
    "{a} and no other thing, {style} style",
)
# For all others, whose common styles are ways to make a picture: {m} is that with its article.
MEDIA = (
    ("{m} of {a}", "a picture of {a}", "{m}"),
    ("{a}, {style}", "{a}", "{style}"),
    ("{m} with {a} in it", "an image of {a}", "{m}"),
    ("{o}, {style}", "{o}", "{style}"),
)
# A word for a style that is nobody's name: {c} is a subject with its article, {o} the word.
WORDED = tuple(Frame(f"{{c}}{form}", "{c}") for form in (" in {o} style", ", {o} style")) + (
    Frame("a picture of {c} in {o} style", "a picture of {c}"),
    Frame("{o} style", ""),
    Frame("{o}", ""),
)


@dataclass(frozen=True)
class Pair:
    """A prompt that draws the concept, the one that it shall be answered with, and the seed of its noise, if given."""

    prompt: str
    anchor: str
    seed: int | None = None


def phrase(subject: str | None, style: str | None, template: int = 0, templates: tuple = TEMPLATES) -> str:
    """The prompt for a subject, a style, or both; "" for neither."""
    if subject is None and style is None:
        return ""
    form = templates[template % len(templates)][0 if subject and style else 1 if subject else 2]
    return form.format(a=with_article(subject or ""), o=subject, style=style, m=with_article(style or ""))


# ------------------------------------------------------------------------------------------------- forgotten


def forget_pairs(
    concept: str | Concept,
    anchor: str | Iterable[str] | None,
    vocabulary: Vocabulary,
    seed: int = 0,
) -> list[Pair]:
    """Prompts of a concept, each with its anchor prompt.

    Args:
        concept: A word ("cigarette"), a style ("sepia style"), a prompt file, or what `concept_of` made of it.
        anchor: "" for the same prompt without the concept; "random" for a random other concept of its kind (SalUn's
            random label); what to draw instead, or several such, of which each prompt gets one. None is what the kind
            has for any model; for an object "", for a style "random", as a prompt that names none draws any style.

    Raises:
        ValueError: an empty concept, an empty file, an anchor that is the concept, or no word for a random one.
    """
    concept = concept if isinstance(concept, Concept) else concept_of(concept, vocabulary)
    if not concept.name:
        raise ValueError("the concept is empty; name what to forget, e.g. --concept cigarette")
    rng = random.Random(seed)
    others = others_of(concept, vocabulary)
    if anchor is None and concept.kind not in ("prompts", "explicit"):
        anchor = KINDS[concept.kind].anchor or ("random" if concept.kind == "style" and others else "")
    if anchor == "random":
        if not others:
            raise ValueError(
                f"the model's vocabulary has no other {concept.kind} for a random anchor; name one with --anchor"
            )
        anchor = others
    instead = None if anchor is None else [name_of(a) if concept.kind == "style" else a.strip() for a in _tuple(anchor)]
    if instead:
        check_anchors(concept, instead)
    if concept.kind == "prompts":
        return _file_pairs(concept, instead, rng)
    if concept.kind == "explicit":
        return _explicit_pairs(concept, instead, rng)
    return _word_pairs(concept, instead or [""], vocabulary, rng)


def _tuple(anchor: str | Iterable[str]) -> tuple[str, ...]:
    return (anchor,) if isinstance(anchor, str) else tuple(anchor)


def others_of(concept: Concept, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Other words of the concept's kind: the model's own, or those that every model has seen."""
    if concept.kind in ("object", "prompts"):
        words = vocabulary.subjects
    elif concept.kind == "style":
        words = KINDS["style"].others if vocabulary.common and proper(concept.name) else vocabulary.styles
    else:
        words = KINDS[concept.kind].others
    return tuple(w for w in words if not concept.named_in(w) and not names(concept.name, [w]))


def _file_pairs(concept: Concept, instead: list[str] | None, rng: random.Random) -> list[Pair]:
    """The prompts of a file with its own anchors; without, those asked for, the kind's, or ""."""
    pairs = []
    for row in read_rows(concept.given):
        if row.kind not in (None, *KINDS):
            raise ValueError(f"{concept.given}: unknown kind {row.kind!r}; known: {', '.join(KINDS)}")
        kind = KINDS[row.kind].anchor if row.kind else None
        anchor = row.anchor if row.anchor is not None else rng.choice(instead) if instead else kind or ""
        pairs.append(Pair(row.prompt, anchor, row.seed))
    same = next((p for p in pairs if p.prompt.lower().split() == p.anchor.lower().split()), None)
    if same:
        raise ValueError(f"{concept.given}: the prompt {same.prompt!r} and its anchor are the same; choose another")
    return list(dict.fromkeys(pairs))


def _explicit_pairs(concept: Concept, instead: list[str] | None, rng: random.Random) -> list[Pair]:
    """All that draws it in every sentence, each answered by what it has of its own, or what was asked for."""
    kind = KINDS["explicit"]
    shown = [*PRESETS.get(concept.name, ((concept.name, kind.anchor),)), *((s, kind.anchor) for s in concept.synonyms)]
    pairs = []
    for frame, (what, own) in itertools.product(kind.frames, shown):
        anchor = (own,) * 3 if instead is None else _ways(rng.choice(instead))
        pairs.append(Pair(_said(frame, what, what, what), _said(frame, *anchor) if anchor[0] else frame.without))
    return list(dict.fromkeys(pairs))


def _word_pairs(concept: Concept, instead: list[str], vocabulary: Vocabulary, rng: random.Random) -> list[Pair]:
    """The word, its plural and its synonyms in every sentence, each answered by the same sentence with an anchor."""
    pairs = []
    for name in (concept.name, *concept.synonyms):
        own = (name,) * 3 if concept.kind in ("person", "character") else _ways(name)
        for frame in frames_of(concept, vocabulary):
            anchor = instead[0] if len(instead) == 1 else rng.choice(instead)
            answer = frame._replace(text=frame.answer or frame.text)
            pairs.append(Pair(_said(frame, *own), _said(answer, *_ways(anchor)) if anchor else frame.without))
    return list(dict.fromkeys(pairs))


def _ways(noun: str) -> tuple[str, str, str]:
    """A noun with its article, without, and in the plural."""
    return with_article(noun), bare(noun), plural(bare(noun))


def _said(frame: Frame, a: str, o: str, s: str) -> str:
    return frame.text.format(a=a, o=o, s=s)


def say(frame: Frame, word: str, kind: str) -> str:
    """The sentence about a word of a kind; persons, characters and explicit content as they are given."""
    return _said(frame, *((word,) * 3 if kind in ("person", "character", "explicit") else _ways(word)))


def frames_of(concept: Concept, vocabulary: Vocabulary) -> list[Frame]:
    """The sentences for a concept: the captions of a model that brings its words, or the kind's own."""
    if concept.kind == "object" and not vocabulary.common:
        forms = (*TEMPLATES, ("an image of {s} in {style} style", "an image of {s}", TEMPLATES[-1][2]))
        captions = [
            Frame(both.replace("{style}", style), alone.format(style=style)) if style else Frame(subject, "")
            for both, subject, alone in forms
            for style in (None, *vocabulary.styles)
        ]
        plainest, _, without = TEMPLATES[0]
        return captions + [
            Frame(*(form.replace("{style}", style) for form in (text, without, plainest)))
            for j, style in enumerate(vocabulary.styles)
            for k, text in enumerate(LOOSE)
            if (j + k) % 2 == 0
        ]
    if concept.kind != "style":  # none that is about the concept anyway: "a person with a person"
        return [f for f in KINDS[concept.kind].frames if not concept.named_in(f.text.replace("{", "").replace("}", ""))]
    if not vocabulary.common:
        return [
            Frame(phrase(subject, "{o}", k), phrase(subject, None, k))
            for k in range(len(TEMPLATES))
            for subject in (None, *vocabulary.subjects)
        ]
    forms = KINDS["style"].frames if proper(concept.name) else WORDED
    fill = lambda text, subject: text.replace("{c}", with_article(subject))  # noqa: E731
    found = [Frame(fill(f.text, s), fill(f.without, s)) for f in forms for s in vocabulary.subjects]
    return [f for f in dict.fromkeys(found) if not concept.named_in(f.without)]


# ------------------------------------------------------------------------------------------------- kept


def keep_prompts(
    concepts: list[str] | list[Concept],
    vocabulary: Vocabulary,
    count: int,
    seed: int = 0,
    near: Iterable[str] = (),
    share: float = 0.5,
) -> list[str]:
    """Prompts of what must stay: subjects x styles without the concepts, every word about equally often.

    Args:
        near: The words nearest to the concepts, of their kind; `share` of the prompts are about these.
    """
    named = [n for c in concepts for n in (c.names if isinstance(c, Concept) else (c,))]
    words, rng = vocabulary.without(named), random.Random(seed)
    near = list(dict.fromkeys(near))
    if not (words.subjects or words.styles or near):
        raise ValueError("no word of the model's vocabulary is left to keep; give prompts with --keep")
    wide = _deal(list(words.subjects), list(words.styles), count, rng, vocabulary)
    if not near:
        return wide
    styles = {w.lower() for w in (*vocabulary.styles, *KINDS["style"].others)}
    of_style, of_subject = [w for w in near if w.lower() in styles], [w for w in near if w.lower() not in styles]
    close = []
    if of_subject:
        close.append(_deal(of_subject, list(words.styles), count, rng, vocabulary))
    if of_style:
        close.append(_deal(list(words.subjects), of_style, count, rng, vocabulary))
    mixed = [p for group in zip(*close) for p in group]
    turns = itertools.accumulate(itertools.repeat(share, count))  # share 0.4: the 3rd, 5th, 8th, 10th are near ones
    taken = [int(b) > int(a) for a, b in itertools.pairwise((0, *turns))]
    return [mixed.pop(0) if now else wide.pop(0) for now in taken]


def _deal(subjects: list[str], styles: list[str], count: int, rng: random.Random, vocabulary: Vocabulary) -> list[str]:
    """`count` prompts of subjects in styles, each about equally often; one in eight without one of them."""
    subjects, styles = subjects or [None], styles or [None]
    if subjects == styles == [None]:
        return []
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
        prompts.append(kept_phrase(subject, style, rng.randrange(len(TEMPLATES)), vocabulary))
    return prompts


def kept_phrase(subject: str | None, style: str | None, template: int, vocabulary: Vocabulary) -> str:
    """`phrase` as it reads in the vocabulary: captions, ways to make a picture, or an artist's name."""
    if not vocabulary.common:
        return phrase(subject, style, template)
    if style is None or style in vocabulary.styles:
        return phrase(subject, style, template, MEDIA)
    forms = [f for f in KINDS["style"].frames if ("{c}" in f.text) == (subject is not None)]
    return forms[template % len(forms)].text.replace("{c}", with_article(subject or "")).format(o=style)


# ------------------------------------------------------------------------------------------------- checks


def check_anchors(concept: Concept, anchors: Iterable[str]) -> None:
    """ValueError where one of the anchors is, or names, the concept, in whatever form and letter case."""
    for anchor in anchors:
        if concept.named_in(anchor):
            raise ValueError(
                f"the concept {concept.given!r} and its anchor {anchor!r} are the same, or one names the other; "
                "choose another --anchor"
            )


def check_words(concepts: list[Concept], anchor: str | None, keep: Iterable[str], vocabulary: Vocabulary) -> None:
    """What can be said against the options by their words alone.

    Raises:
        ValueError: a concept that names nothing, an anchor or a prompt to keep that names a concept, a synonym that is
            another word of the model's own vocabulary.
    """
    for concept in concepts:
        if concept.kind == "prompts":
            read_rows(concept.given)
            continue
        for word in (concept.name, *concept.synonyms):
            if not any(c.isalnum() for c in word):
                raise ValueError(f"the concept {concept.given!r} is empty; name what to forget, e.g. cigarette")
            if all(w in STOP_WORDS for w in word.lower().split()):
                raise ValueError(f"{word!r} names nothing to forget: it is in prompts of every kind")
        if anchor and anchor not in ("random", "next", "nearest"):
            check_anchors(concept, [anchor])
        kept = next((prompt for prompt in keep if concept.named_in(prompt)), None)
        if kept is not None:
            raise ValueError(f"--keep {kept!r} names the concept {concept.given!r}, which is to be forgotten")
        _check_synonyms(concept, vocabulary)


def _check_synonyms(concept: Concept, vocabulary: Vocabulary) -> None:
    """ValueError where a synonym is another word of those that a model brought."""
    own = () if vocabulary.common else (*vocabulary.subjects, *vocabulary.styles)
    for synonym in concept.synonyms:
        other = next((w for w in own if names(synonym, [w]) and not names(w, [concept.name])), None)
        if other:
            raise ValueError(
                f"the synonym {synonym!r} is {other!r}, another word that the model draws and that is kept; "
                f"give it as a --concept of its own to forget it too"
            )
