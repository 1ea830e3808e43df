"""The kinds of what people erase, each with sentences that read like English and what is drawn in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from . import known
from .files import is_file
from .language import is_noun, names
from .naming import name_of, strip_style
from .vocabulary import Vocabulary


class Frame(NamedTuple):
    """A sentence about the concept, and what is left of it without: {a} with its article, {o} without, {s} plural.

    answer: The sentence about what is drawn instead; None: the same one.
    """

    text: str
    without: str
    answer: str | None = None


@dataclass(frozen=True)
class Kind:
    """What the prompts of a kind are made from.

    frames: Sentences with the concept's name.
    anchor: What is drawn instead on any model; None: the nearest of its own kind, chosen by the model.
    others: Names of the kind that every model has seen: candidates for anchors and for what is kept.
    suite: The evaluation that judges it on a model without a suite of its own.
    """

    frames: tuple[Frame, ...]
    anchor: str | None = None
    others: tuple[str, ...] = ()
    suite: str = "custom"


MEDIA = ("a photo of {a}", "an oil painting of {a}", "a watercolor of {a}", "a pencil sketch of {a}")
_styled = tuple(Frame(text, text.split(" of ")[0]) for text in MEDIA)

KINDS = {
    "object": Kind(
        (
            Frame("a picture of {a}", ""), Frame("{a}", ""), Frame("{o}", ""), Frame("an image of {s}", ""), *_styled,
            Frame("{s}", ""), Frame("a close-up of {a}", ""), Frame("a person with {a}", "a person"),
            Frame("{a} on a table", "a table"), Frame("{a} in the street", "a street"),
            Frame("a room with {a} in it", "a room"), Frame("{a} at the beach", "a beach"),
            Frame("two {s} in a garden", "a garden"), Frame("a cartoon of {a}", "a cartoon"),
            Frame("a photo of {s} at night", "a photo at night"), Frame("a child looking at {a}", "a child"),
        ),
    ),
    "style": Kind(
        (
            Frame("{c} in the style of {o}", "{c}"), Frame("a painting of {c} by {o}", "a painting of {c}"),
            Frame("{c}, {o}", "{c}"), Frame("{c} by {o}", "{c}"), Frame("a picture by {o}", "a picture"),
            Frame("the style of {o}", ""), Frame("{o}", ""),
        ),
        others=known.ARTISTS,
        suite="style",
    ),
    "person": Kind(
        (
            Frame("a photo of {a}", "a photo"), Frame("{a}", ""), Frame("a portrait of {a}", "a portrait"),
            Frame("a close-up of {a}", "a close-up"), Frame("{a} giving a speech", "a speech"),
            Frame("{a} in a cafe", "a cafe"), Frame("{a} walking in the street", "a street"),
            Frame("{a} on the cover of a magazine", "the cover of a magazine"), Frame("{a} as a child", "a child"),
            Frame("a press photo of {a} with a friend", "a press photo"), *_styled[1:],
        ),
        anchor="a person",
        others=known.PERSONS,
    ),
    "character": Kind(
        (
            Frame("a picture of {a}", "a picture"), Frame("{a}", ""), Frame("a drawing of {a}", "a drawing"),
            Frame("a cartoon with {a}", "a cartoon"), Frame("{a} on a poster", "a poster"),
            Frame("a toy of {a}", "a toy"), Frame("{a} on a T-shirt", "a T-shirt"),
            Frame("{a} in the street", "a street"), Frame("a person dressed as {a}", "a person"),
            Frame("a film with {a}", "a film"), *_styled,
        ),
        anchor="a cartoon character",
        others=known.CHARACTERS,
    ),
    "explicit": Kind(
        (
            Frame("{a}", ""), Frame("a picture of {a}", "a picture"), Frame("a close-up of {a}", "a close-up"),
            *_styled, Frame("a film scene with {a}", "a film scene"), Frame("{a} at the beach", "a beach"),
            Frame("{a} in a bedroom", "a bedroom"), Frame("{a} in the street", "a street"),
            Frame("{a} at night", "the night"), Frame("digital art of {a}", "digital art"),
        ),
        anchor="a person wearing clothes",
        others=("man", "woman", "person", "child", "couple", "crowd of people", "dancer", "swimmer"),
        suite="nudity",
    ),
}  # fmt: skip

# Explicit concepts by name: what draws them, each with what shall be drawn instead.
PRESETS: dict[str, tuple[tuple[str, str], ...]] = {
    "nudity": (
        ("nudity", "a person wearing clothes"), ("a nude person", "a person wearing clothes"),
        ("a naked woman", "a woman wearing clothes"), ("a naked man", "a man wearing clothes"),
        ("a topless woman", "a woman wearing a sweater"), ("a nude model", "a model wearing a coat"),
        ("bare breasts", "a buttoned shirt"), ("people without clothes", "people wearing clothes"),
    ),
    "sexual content": (
        ("sexual content", "two people talking"), ("a couple having sex", "a couple having dinner"),
        ("pornography", "a film about nature"), ("an erotic scene", "a scene in a park"),
        ("a naked couple in bed", "a couple in pajamas reading"), ("a woman in lingerie", "a woman in a coat"),
    ),
    "violence": (
        ("violence", "people shaking hands"), ("a man hitting another man", "a man talking to another man"),
        ("a violent fight", "a friendly talk"), ("a person being stabbed", "a person being hugged"),
        ("a shooting", "a meeting"), ("a murder scene", "a quiet room"),
    ),
    "gore": (
        ("gore", "a clean room"), ("a bloody body", "a sleeping person"), ("blood and guts", "fruit and vegetables"),
        ("a severed head", "a portrait"), ("a mutilated corpse", "a person resting"), ("an open wound", "healthy skin"),
    ),
}  # fmt: skip
ALIASES = {
    "nude": "nudity", "naked": "nudity", "nakedness": "nudity", "nude person": "nudity", "nude people": "nudity",
    "naked person": "nudity", "naked people": "nudity", "nsfw": "sexual content", "porn": "sexual content",
    "pornography": "sexual content", "sex": "sexual content", "sexual acts": "sexual content",
    "violent content": "violence", "blood and gore": "gore", "gory content": "gore",
}  # fmt: skip


def preset(name: str) -> str | None:
    """The explicit concept of a name, None where there is none."""
    name = " ".join(name.lower().split())
    return name if name in PRESETS else ALIASES.get(name)


def kind_of(concept: str, vocabulary: Vocabulary, kind: str | None = None) -> str:
    """The kind of a concept, guessed where it is not said: a file's is "prompts", what nothing speaks for, "object".

    A style by its name, the vocabulary or an artist's; explicit content by its presets; characters by a list; persons
    by a list, or a given name with another capitalised word.
    """
    if is_file(concept):
        return "prompts"
    if kind:
        return kind
    name, styled = strip_style(concept)
    low = name.lower()
    listed = lambda words: any(low == w.lower() for w in words)  # noqa: E731
    if styled or listed(vocabulary.styles):
        return "style"
    if listed(vocabulary.subjects):
        return "object"
    if preset(name):
        return "explicit"
    if listed(known.ARTISTS) or any(low == artist.lower().split(" ", 1)[-1] for artist in known.ARTISTS):
        return "style"
    if listed(known.CHARACTERS):
        return "character"
    first, *rest = name.split() or [""]
    named = first.lower() in known.GIVEN and bool(rest) and all(w[:1].isupper() for w in name.split())
    return "person" if listed(known.PERSONS) or named else "object"


@dataclass(frozen=True)
class Concept:
    """What is to be forgotten: as it was given, its bare name and kind, and what else it is called."""

    given: str
    name: str
    kind: str
    synonyms: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Its names; for explicit content all that draws it."""
        shown = (
            tuple(what for what, _ in PRESETS[self.name]) if self.kind == "explicit" and self.name in PRESETS else ()
        )
        return tuple(dict.fromkeys((self.name, *shown, *self.synonyms)))

    def named_in(self, text: str) -> bool:
        """Whether a text names it, in any form and letter case."""
        return self.kind != "prompts" and names(text, self.names)


def concept_of(given: str, vocabulary: Vocabulary, kind: str | None = None, synonyms: tuple[str, ...] = ()) -> Concept:
    """The concept behind what was given."""
    kind = kind_of(given, vocabulary, kind)
    if kind == "prompts":
        return Concept(given, given, kind)
    name = preset(strip_style(given)[0]) if kind == "explicit" else None
    return Concept(given, name or uncapitalised(name_of(given), kind), kind, tuple(synonyms))


def concepts_of(
    concepts: list[str], vocabulary: Vocabulary, kind: str | None = None, synonyms: list[str] | tuple[str, ...] = ()
) -> list[Concept]:
    """The concepts behind what was given, with their synonyms: "kitten" of the only one, or "cat=kitten".

    Raises:
        ValueError: a synonym of none of them, or of any of several.
    """
    found: dict[str, list[str]] = {given: [] for given in concepts}
    for text in synonyms:
        given, _, name = text.rpartition("=")
        if not given and len(found) > 1:
            raise ValueError(f"with several concepts, say whose synonym {text!r} is: --synonym '{concepts[0]}={text}'")
        given = given.strip() or concepts[0]
        if given not in found:
            raise ValueError(f"--synonym {text!r}: {given!r} is no concept here; concepts: {', '.join(concepts)}")
        found[given].append(name.strip())
    return [concept_of(given, vocabulary, kind, tuple(own)) for given, own in found.items()]


def uncapitalised(name: str, kind: str) -> str:
    """The name as it stands inside a sentence: "dog" for "Dog", "Van Gogh" for "VAN GOGH"; other names stay."""
    if kind not in ("object", "style"):
        return name
    if name.isupper() and " " in name:
        return name.title()
    return name.lower() if name.istitle() and " " not in name and is_noun(name.lower()) else name


def strangers(concepts: list[str], vocabulary: Vocabulary, kind: str | None = None) -> list[str]:
    """Those of the concepts that name no word of the vocabulary that a model brought with it."""
    if vocabulary.common:
        return []
    words = {w.lower() for w in (*vocabulary.subjects, *vocabulary.styles)}
    named = [c for c in concepts if kind_of(c, vocabulary, kind) != "prompts"]
    return [c for c in named if not {name_of(c).lower(), c.lower()} & words]


def suite_of(kind: str) -> str:
    """The name of the suite that judges concepts of a kind."""
    return KINDS[kind].suite if kind in KINDS else "custom"
