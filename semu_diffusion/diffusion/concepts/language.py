"""English for prompts: articles, plurals and which words are one, by inflect and lemminflect."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from functools import cache

# What a prompt may consist of without naming anything.
STOP_WORDS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "i", "you", "he", "she", "it", "we", "they", "me", "him",
    "her", "us", "them", "my", "your", "his", "its", "our", "their", "of", "in", "on", "at", "by", "for", "from",
    "with", "without", "to", "into", "over", "under", "and", "or", "but", "nor", "not", "no", "yes", "as", "is",
    "are", "was", "were", "be", "been", "being", "do", "does", "did", "has", "have", "had", "will", "would", "can",
    "could", "may", "might", "shall", "should", "must", "there", "here", "what", "which", "who", "when", "where",
    "why", "how", "all", "any", "some", "each", "every", "both", "more", "most", "other", "such", "only", "own",
    "same", "so", "than", "too", "very", "just", "now", "then", "if",
})  # fmt: skip
# Nouns that the dictionary counts as well, though in a picture nobody does.
MASS = frozenset({
    "art", "blood", "gore", "smoke", "water", "fire", "grass", "rain", "snow", "hair", "skin", "sand",
})  # fmt: skip
TAIL = r"(?: (?:of|in|with|on|at|for|from|to|by|and|without|\w{3,}ing)\b .+)?"


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Without the type checks that typeguard writes into a package when it is imported, from its parsed source."""
    try:
        import typeguard
    except ImportError:  # inflect 7.0 has none
        yield
        return
    checked, typeguard.typechecked = typeguard.typechecked, lambda target: target
    try:
        yield
    finally:
        typeguard.typechecked = checked


@cache
def engine():
    """inflect's, for articles and plurals; its checks would take two seconds of every process."""
    with _unchecked():
        import inflect
    return inflect.engine()


def series(words: Sequence[str]) -> str:
    """Words as one says several: "a", "a and b", "a, b and c"."""
    return engine().join(words, final_sep="")


@cache
def _lemmas(word: str) -> tuple[str, ...]:
    """The dictionary forms of a noun, () where the dictionary does not have it."""
    import lemminflect

    one = False if word.endswith("s") else engine().singular_noun(word)  # "person" of "people", which it has as one
    return (one,) if one else lemminflect.getAllLemmas(word, upos="NOUN").get("NOUN", ())


@cache
def _plurals(word: str) -> tuple[str, ...]:
    """The plurals of a noun in its dictionary form, by rule where the dictionary does not have it."""
    import lemminflect

    return lemminflect.getInflection(word, "NNS")


def is_noun(word: str) -> bool:
    """Whether the dictionary has the word as a noun."""
    return bool(_lemmas(word))


def head(noun: str) -> tuple[str, str, str]:
    """What stands before the word that is inflected, that word, and what follows: ("tall ", "glass", " of wine")."""
    return re.fullmatch(rf"((?:\S+ )*?)(\S+)({TAIL})", noun).groups()


def bare(noun: str) -> str:
    """Without an article and needless spaces: "dog" for "a  dog", but "the" stays before a name."""
    words = noun.split()
    if len(words) > 1 and (words[0].lower() in ("a", "an") or (words[0].lower() == "the" and words[1].islower())):
        words = words[1:]
    return " ".join(words)


def proper(noun: str) -> bool:
    """Whether the noun is written as a name: "Van Gogh", "Mickey Mouse", "Pikachu"; not "Dog", not "French horn"."""
    words = noun.split()
    capital = sum(w[:1].isupper() for w in words)
    if len(words) > 1:
        return capital == len(words) or (capital > 1 and words[0][:1].isupper()) or words[0] == "the"
    return capital == 1 and not _lemmas(noun.lower())


def singular(noun: str) -> str:
    """The dictionary form of the noun: "dog" for "dogs"; as it is where it has none or several."""
    before, word, after = head(noun)
    lemmas = _lemmas(word)
    return f"{before}{lemmas[0]}{after}" if len(lemmas) == 1 and not proper(noun) else noun


def countable(noun: str) -> bool:
    """Whether it takes "a": a dog, a glass of wine; not nudity, scissors, dogs."""
    _, word, _ = head(noun)
    own = word.lower()
    return own not in MASS and own not in _several(own) and any(plural != own for plural in _plurals(own))


def _several(word: str) -> tuple[str, ...]:
    """The word if it is the plural of another one."""
    return (word,) if any(lemma != word and word in _plurals(lemma) for lemma in _lemmas(word)) else ()


def with_article(noun: str) -> str:
    """ "an apple", "a unicorn", "an hour"; "scissors", "nudity" and "Van Gogh" as they are."""
    if not noun or noun.startswith(("a ", "an ", "the ")) or proper(noun) or not countable(noun):
        return noun
    return engine().a(noun)


def plural(noun: str) -> str:
    """ "dogs", "people", "glasses of wine"; nouns without one, plurals and names as they are."""
    if proper(noun) or not countable(noun):
        return noun
    before, word, after = head(noun)
    return f"{before}{engine().plural_noun(word)}{after}"


def forms(noun: str) -> tuple[str, ...]:
    """The noun in lower case, in singular and in each plural: what counts as the same word."""
    name = singular(bare(noun).lower())
    before, word, after = head(name)
    known = is_noun(word)
    others = () if known and not countable(word) else (*(_plurals(word) if known else ()), engine().plural_noun(word))
    found = dict.fromkeys((bare(noun).lower(), name, *(f"{before}{w}{after}" for w in others if w)))
    return tuple(found)


def names(text: str, nouns: tuple[str, ...] | list[str]) -> bool:
    """Whether a text names one of the nouns, alone or among other words, in any form and letter case."""
    known = "|".join(re.escape(form) for noun in nouns for form in forms(noun))
    return bool(known) and re.search(rf"(?<!\w)({known})(?!\w)", text, re.IGNORECASE) is not None
