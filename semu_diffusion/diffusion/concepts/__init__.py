"""What people erase: kinds of concepts, and from a word to the prompts that forget it, replace it and keep the rest."""

from .files import is_file, read_rows
from .kinds import KINDS, PRESETS, Concept, Kind, concept_of, concepts_of, kind_of, strangers, suite_of
from .language import forms, names, plural, proper, singular, with_article
from .naming import name_of
from .prompts import TEMPLATES, Pair, check_words, forget_pairs, frames_of, keep_prompts, others_of, phrase
from .vocabulary import COMMON, Vocabulary, vocabulary_of

__all__ = [
    "COMMON", "KINDS", "PRESETS", "TEMPLATES", "Concept", "Kind", "Pair", "Vocabulary", "check_words", "concept_of",
    "concepts_of", "forget_pairs", "forms", "frames_of", "is_file", "keep_prompts", "kind_of", "name_of", "names",
    "others_of", "phrase", "plural", "proper", "read_rows", "singular", "strangers", "suite_of", "vocabulary_of",
    "with_article",
]  # fmt: skip
