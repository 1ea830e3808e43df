"""Prompts of a concept, their anchors, and prompts of what stays."""

import json
import re

import pytest
from tiny import STYLES, SUBJECTS

from semu_diffusion.diffusion.concepts import (
    COMMON,
    TEMPLATES,
    Pair,
    Vocabulary,
    forget_pairs,
    keep_prompts,
    kind_of,
    name_of,
    phrase,
    strangers,
    vocabulary_of,
)
from semu_diffusion.diffusion.concepts.prompts import LOOSE

WORDS = Vocabulary(SUBJECTS, STYLES)


def mentions(prompt, word):
    return re.search(rf"\b{word}\b", prompt) is not None


@pytest.mark.parametrize(
    "concept, kind, name",
    [
        ("cigarette", "object", "cigarette"),
        ("sepia style", "style", "sepia"),
        ("sepia", "style", "sepia"),
        ("Sepia", "style", "Sepia"),
        ("Van Gogh style", "style", "Van Gogh"),
        ("prompts.txt", "prompts", "prompts.txt"),
    ],
)
def test_kinds_and_names(concept, kind, name):
    assert (kind_of(concept, WORDS), name_of(concept)) == (kind, name)


def test_vocabulary_is_the_models_own_or_the_common_one(tmp_path):
    assert vocabulary_of(tmp_path) is COMMON
    (tmp_path / "vocabulary.json").write_text(json.dumps({"subjects": SUBJECTS, "styles": STYLES}))
    assert vocabulary_of(tmp_path) == WORDS


def test_words_that_a_model_with_a_vocabulary_does_not_know():
    asked = ["unicorn", "Cigarette", "neon style", "cubist style", "prompts.txt"]
    assert strangers(asked, WORDS) == ["unicorn", "cubist style"]
    assert strangers(asked, COMMON) == []  # not the model's own words


def test_phrases():
    assert phrase("apple", "neon") == "a picture of an apple in neon style"
    assert phrase("cat", None) == "a picture of a cat"
    assert phrase(None, "neon") == "a picture in neon style"
    assert phrase(None, None) == ""


def test_object_pairs_keep_the_context():
    pairs = forget_pairs("cigarette", "", WORDS)
    assert Pair("a picture of a cigarette in neon style", "a picture in neon style") in pairs
    assert Pair("a picture of a cigarette", "") in pairs
    assert len({p.prompt for p in pairs}) == len(pairs)
    for pair in pairs:
        assert mentions(pair.prompt, "cigarettes?") and not mentions(pair.anchor, "cigarettes?")
        assert [mentions(pair.anchor, s) for s in STYLES] == [mentions(pair.prompt, s) for s in STYLES]


def test_style_pairs_keep_the_subject():
    pairs = forget_pairs("sepia style", "", WORDS)
    assert Pair("a picture of an apple in sepia style", "a picture of an apple") in pairs
    assert Pair("a picture in sepia style", "") in pairs
    for pair in pairs:
        assert mentions(pair.prompt, "sepia") and not mentions(pair.anchor, "sepia")
        assert [mentions(pair.anchor, s) for s in SUBJECTS] == [mentions(pair.prompt, s) for s in SUBJECTS]
    assert forget_pairs("sepia", "", WORDS) == pairs


def test_pairs_span_all_contexts_and_templates():
    prompts = {p.prompt for p in forget_pairs("cigarette", "", WORDS)}
    several = {"an image of cigarettes", *(f"an image of cigarettes in {s} style" for s in STYLES)}
    loose = {
        form.format(a="a cigarette", o="cigarette", style=s)
        for j, s in enumerate(STYLES)
        for k, form in enumerate(LOOSE)
        if (j + k) % 2 == 0
    }
    captions = {phrase("cigarette", s, k) for k in range(len(TEMPLATES)) for s in (None, *STYLES)}
    assert prompts == captions | several | loose
    assert 2 * len(loose) == len(LOOSE) * len(STYLES) and not loose & captions


def test_sentences_that_no_caption_has_are_answered_by_the_plainest_caption():
    """The model draws an apple from a caption better than from "one apple, photo style"."""
    answers = {p.prompt: p.anchor for p in forget_pairs("cigarette", "apple", WORDS)}
    assert answers["one cigarette, photo style"] == "a picture of an apple in photo style"
    assert answers["cigarette neon"] == "apple neon"  # a caption: by the same one
    nothing = {p.prompt: p.anchor for p in forget_pairs("cigarette", "", WORDS)}
    assert nothing["one cigarette, photo style"] == "a picture in photo style"
    everybody = forget_pairs("cigarette", "apple", COMMON)
    assert not any(p.prompt.startswith("one cigarette") for p in everybody)  # real models read English


def test_a_concept_out_of_the_vocabulary():
    assert Pair("a picture of a wug in photo style", "a picture in photo style") in forget_pairs("wug", "", WORDS)


def test_anchor_by_name():
    assert Pair("a picture of a cigarette in neon style", "a picture of an apple in neon style") in forget_pairs(
        "cigarette", "apple", WORDS
    )
    assert Pair("a picture of a cat in sepia style", "a picture of a cat in neon style") in forget_pairs(
        "sepia style", "neon style", WORDS
    )


@pytest.mark.parametrize("concept, own", [("cigarette", SUBJECTS), ("sepia style", STYLES)])
def test_random_anchor_is_another_of_its_kind(concept, own):
    found = set()
    for seed in range(5):
        pairs = forget_pairs(concept, "random", WORDS, seed)
        assert pairs == forget_pairs(concept, "random", WORDS, seed)
        assert not any(mentions(p.anchor, name_of(concept)) for p in pairs)
        found |= {w for w in own for p in pairs if mentions(p.anchor, w)}
    assert found == set(own) - {name_of(concept)}
    assert forget_pairs(concept, "random", WORDS, 1) != forget_pairs(concept, "random", WORDS, 2)


def test_the_default_anchor_is_nothing_for_an_object_and_other_styles_for_a_style():
    assert forget_pairs("cigarette", None, WORDS) == forget_pairs("cigarette", "", WORDS)
    assert forget_pairs("sepia style", None, WORDS) == forget_pairs("sepia style", "random", WORDS)
    one_style = Vocabulary(tuple(SUBJECTS), ("sepia",))
    assert forget_pairs("sepia style", None, one_style) == forget_pairs("sepia style", "", one_style)


def test_several_concepts_leave_each_other_out():
    """Erasing a knife must not teach to draw a cigarette that is being erased too, nor hold on to its style."""
    words = WORDS.without(["cigarette", "sepia style"])
    assert "cigarette" not in words.subjects and "sepia" not in words.styles
    assert not any(mentions(p.anchor, "cigarette") for p in forget_pairs("cat", "random", words))


def test_prompts_of_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("  a man smoking \n\n\ta cigarette in the rain\n")
    pairs = forget_pairs(str(file), "a man", WORDS)
    assert pairs == [Pair("a man smoking", "a man"), Pair("a cigarette in the rain", "a man")]
    assert {p.anchor for p in forget_pairs(str(file), "", WORDS)} == {""}
    assert all(p.anchor in SUBJECTS for p in forget_pairs(str(file), "random", WORDS))


@pytest.mark.parametrize("concept", ["", "  ", " style"])
def test_empty_concept(concept):
    with pytest.raises(ValueError, match="concept is empty"):
        forget_pairs(concept, "", WORDS)


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "empty.txt").write_text("\n  \n")
    for name in ("empty.txt", "missing.txt"):
        with pytest.raises(ValueError, match=f"no prompts in .*{name}"):
            forget_pairs(str(tmp_path / name), "", WORDS)


@pytest.mark.parametrize("concept, anchor", [("cat", "cat"), ("sepia style", "sepia"), ("sepia", "sepia style")])
def test_concept_as_its_own_anchor(concept, anchor):
    with pytest.raises(ValueError, match="are the same.*--anchor"):
        forget_pairs(concept, anchor, WORDS)


def test_no_other_word_for_a_random_anchor():
    with pytest.raises(ValueError, match="random"):
        forget_pairs("cat", "random", Vocabulary(("cat",), ("photo",)))


@pytest.mark.parametrize("words", [WORDS, COMMON], ids=["tiny", "common"])
@pytest.mark.parametrize(
    "concepts", [["cat"], ["Cat"], ["photo style"], ["cat", "photo", "tree"], ["coffee"], ["street"]]
)
def test_keep_prompts_leave_the_concept_out(words, concepts):
    prompts = keep_prompts(concepts, words, 300)
    assert len(prompts) == 300
    assert not any(mentions(p, name_of(c).lower()) for p in prompts for c in concepts)


@pytest.mark.parametrize("words", [WORDS, COMMON], ids=["tiny", "common"])
def test_keep_prompts_cover_every_word_about_equally(words):
    prompts = keep_prompts(["cat"], words, 400)
    for own in (words.subjects, words.styles):
        counts = [sum(mentions(p, w) for p in prompts) for w in own if w != "cat"]
        assert min(counts) > 0 and max(counts) < 3 * min(counts) + 8


@pytest.mark.parametrize("number", [1, 2, 4, 7, 8, 16, 23, 24])
def test_keep_prompts_hold_every_subject_with_and_without_a_style(number):
    """One in eight goes without: no number of subjects may be in step with that."""
    words = Vocabulary(tuple(f"thing{i}x" for i in range(number)), STYLES)
    prompts = keep_prompts(["cat"], words, 30 * number)
    for subject in words.subjects:
        styled = [any(mentions(p, s) for s in STYLES) for p in prompts if mentions(p, subject)]
        assert 10 < sum(styled) < len(styled) < 60
    bare = sum(not any(mentions(p, s) for s in words.subjects) for p in prompts)
    assert abs(bare - len(prompts) / 8) <= 1


def test_keep_prompts_follow_the_seed():
    assert keep_prompts(["cat"], WORDS, 40, 3) == keep_prompts(["cat"], WORDS, 40, 3)
    assert keep_prompts(["cat"], WORDS, 40, 3) != keep_prompts(["cat"], WORDS, 40, 4)
    assert keep_prompts(["cat"], WORDS, 20, 3) == keep_prompts(["cat"], WORDS, 40, 3)[:20]


def test_keep_prompts_of_half_a_vocabulary():
    assert set(keep_prompts(["photo"], Vocabulary(SUBJECTS, ("photo",)), 200)) == {
        phrase(s, None, k) for s in SUBJECTS for k in range(len(TEMPLATES))
    }
    assert all(any(mentions(p, s) for s in STYLES) for p in keep_prompts(["cat"], Vocabulary(("cat",), STYLES), 50))
    with pytest.raises(ValueError, match="--keep"):
        keep_prompts(["cat", "photo"], Vocabulary(("cat",), ("photo",)), 5)
