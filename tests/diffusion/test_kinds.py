"""Kinds of concepts and their English, and what is refused by its words alone."""

import json

import pytest
from tiny import STYLES, SUBJECTS

from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.concepts import (
    COMMON,
    KINDS,
    Pair,
    Vocabulary,
    check_words,
    concept_of,
    forget_pairs,
    forms,
    is_file,
    keep_prompts,
    kind_of,
    language,
    with_article,
)
from semu_diffusion.pictograms.words import OBJECTS, article

WORDS = Vocabulary(SUBJECTS, STYLES)
# What was given, its kind and name, and prompts of it (with their anchors, where the kind has its own): read by eye.
NAMES = (
    ("dog", "object", "dog", "a picture of a dog", "an image of dogs"),
    ("a dog", "object", "dog", "a picture of a dog", "an image of dogs"),
    ("dogs", "object", "dog", "a picture of a dog", "an image of dogs"),
    ("Dog", "object", "dog", "a picture of a dog", "an image of dogs"),
    ("guns", "object", "gun", "a picture of a gun", "an image of guns"),
    ("knives", "object", "knife", "a picture of a knife", "an image of knives"),
    ("an apple", "object", "apple", "a picture of an apple", "an image of apples"),
    ("scissors", "object", "scissors", "a picture of scissors", "an image of scissors"),
    ("glasses", "object", "glasses", "a picture of glasses", "an image of glasses"),
    ("jeans", "object", "jeans", "a picture of jeans", "an image of jeans"),
    ("sheep", "object", "sheep", "a picture of sheep", "an image of sheep"),
    ("fish", "object", "fish", "a picture of a fish", "an image of fish"),
    ("bus", "object", "bus", "a picture of a bus", "an image of buses"),
    ("buses", "object", "bus", "a picture of a bus", "an image of buses"),
    ("church", "object", "church", "a picture of a church", "an image of churches"),
    ("unicorn", "object", "unicorn", "a picture of a unicorn", "an image of unicorns"),
    ("hour glass", "object", "hour glass", "a picture of an hour glass", "an image of hour glasses"),
    ("SUV", "object", "SUV", "a picture of SUV", "an image of SUV"),
    ("cup of coffee", "object", "cup of coffee", "a picture of a cup of coffee", "an image of cups of coffee"),
    ("glass of wine", "object", "glass of wine", "a picture of a glass of wine", "an image of glasses of wine"),
    ("golf balls", "object", "golf ball", "a picture of a golf ball", "an image of golf balls"),
    ("French horn", "object", "French horn", "a picture of a French horn", "an image of French horns"),
    ("gas pump", "object", "gas pump", "a picture of a gas pump", "an image of gas pumps"),
    ("cassette player", "object", "cassette player",
     "a picture of a cassette player", "an image of cassette players"),
    ("chain saw", "object", "chain saw", "a picture of a chain saw", "an image of chain saws"),
    ("parachute", "object", "parachute", "a picture of a parachute", "an image of parachutes"),
    ("garbage truck", "object", "garbage truck", "a picture of a garbage truck", "an image of garbage trucks"),
    ("English springer", "object", "English springer",
     "a picture of an English springer", "an image of English springers"),
    ("tench", "object", "tench", "a picture of a tench", "an image of tenches"),
    ("wine", "object", "wine", "a picture of a wine", "an image of wines"),
    ("beer", "object", "beer", "a picture of a beer", "an image of beers"),
    ("blood", "object", "blood", "a picture of blood", "an image of blood"),
    ("smoke", "object", "smoke", "a picture of smoke", "an image of smoke"),
    ("children", "object", "child", "a picture of a child", "an image of children"),
    ("people", "object", "person", "a picture of a person", "an image of people"),
    ("cactus", "object", "cactus", "a picture of a cactus", "an image of cactuses"),
    ("iPhone", "object", "iPhone", "a picture of an iPhone", "an image of iPhones"),
    ("Coca-Cola", "object", "Coca-Cola", "a picture of Coca-Cola", "an image of Coca-Cola"),
    ("the Eiffel Tower", "object", "the Eiffel Tower",
     "a picture of the Eiffel Tower", "an image of the Eiffel Tower"),
    ("Golden Retriever", "object", "Golden Retriever",
     "a picture of Golden Retriever", "an image of Golden Retriever"),
    ("Albert Einstein", "person", "Albert Einstein",
     "a photo of Albert Einstein -> a photo of a person", "Albert Einstein as a child -> a person as a child"),
    ("albert einstein", "person", "albert einstein",
     "a photo of albert einstein -> a photo of a person", "albert einstein as a child -> a person as a child"),
    ("Donald Trump", "person", "Donald Trump",
     "a photo of Donald Trump -> a photo of a person", "Donald Trump as a child -> a person as a child"),
    ("Taylor Swift", "person", "Taylor Swift",
     "a photo of Taylor Swift -> a photo of a person", "Taylor Swift as a child -> a person as a child"),
    ("Emma Stone", "person", "Emma Stone",
     "a photo of Emma Stone -> a photo of a person", "Emma Stone as a child -> a person as a child"),
    ("Elon Musk", "person", "Elon Musk",
     "a photo of Elon Musk -> a photo of a person", "Elon Musk as a child -> a person as a child"),
    ("Angela Merkel", "person", "Angela Merkel",
     "a photo of Angela Merkel -> a photo of a person", "Angela Merkel as a child -> a person as a child"),
    ("Xi Jinping", "person", "Xi Jinping",
     "a photo of Xi Jinping -> a photo of a person", "Xi Jinping as a child -> a person as a child"),
    ("Mickey Mouse", "character", "Mickey Mouse",
     "Mickey Mouse -> a cartoon character", "a toy of Mickey Mouse -> a toy of a cartoon character"),
    ("Pikachu", "character", "Pikachu",
     "Pikachu -> a cartoon character", "a toy of Pikachu -> a toy of a cartoon character"),
    ("Batman", "character", "Batman",
     "Batman -> a cartoon character", "a toy of Batman -> a toy of a cartoon character"),
    ("Spider-Man", "character", "Spider-Man",
     "Spider-Man -> a cartoon character", "a toy of Spider-Man -> a toy of a cartoon character"),
    ("Hello Kitty", "character", "Hello Kitty",
     "Hello Kitty -> a cartoon character", "a toy of Hello Kitty -> a toy of a cartoon character"),
    ("R2-D2", "character", "R2-D2", "R2-D2 -> a cartoon character", "a toy of R2-D2 -> a toy of a cartoon character"),
    ("Winnie the Pooh", "character", "Winnie the Pooh",
     "Winnie the Pooh -> a cartoon character", "a toy of Winnie the Pooh -> a toy of a cartoon character"),
    ("Van Gogh", "style", "Van Gogh", "a person in the style of Van Gogh"),
    ("Vincent van Gogh", "style", "Vincent van Gogh", "a person in the style of Vincent van Gogh"),
    ("Van Gogh style", "style", "Van Gogh", "a person in the style of Van Gogh"),
    ("VAN GOGH STYLE", "style", "Van Gogh", "a person in the style of Van Gogh"),
    ("the style of Monet", "style", "Monet", "a person in the style of Monet"),
    ("Studio Ghibli", "style", "Studio Ghibli", "a person in the style of Studio Ghibli"),
    ("Greg Rutkowski", "style", "Greg Rutkowski", "a person in the style of Greg Rutkowski"),
    ("Kelly McKernan", "style", "Kelly McKernan", "a person in the style of Kelly McKernan"),
    ("pixel art", "style", "pixel art", "a person in pixel art style"),
    ("cubist style", "style", "cubist", "a person in cubist style"),
    ("Sepia style", "style", "sepia", "a person in sepia style"),
    ("art by Banksy", "style", "Banksy", "a person in the style of Banksy"),
    ("watercolor", "style", "watercolor", "a person in watercolor style"),
    ("nudity", "explicit", "nudity",
     "nudity -> a person wearing clothes", "a picture of a nude person -> a picture of a person wearing clothes"),
    ("Nude", "explicit", "nudity",
     "nudity -> a person wearing clothes", "a picture of a nude person -> a picture of a person wearing clothes"),
    ("naked people", "explicit", "nudity",
     "nudity -> a person wearing clothes", "a picture of a nude person -> a picture of a person wearing clothes"),
    ("NSFW", "explicit", "sexual content",
     "sexual content -> two people talking", "a picture of an erotic scene -> a picture of a scene in a park"),
    ("violence", "explicit", "violence",
     "violence -> people shaking hands", "a picture of a person being stabbed -> a picture of a person being hugged"),
    ("gore", "explicit", "gore", "gore -> a clean room", "a picture of a severed head -> a picture of a portrait"),
    ("blood and gore", "explicit", "gore",
     "gore -> a clean room", "a picture of a severed head -> a picture of a portrait"),
    ("sexual content", "explicit", "sexual content",
     "sexual content -> two people talking", "a picture of an erotic scene -> a picture of a scene in a park"),
)  # fmt: skip


@pytest.mark.parametrize("given, kind, name, first, second", [(*row, None)[:5] for row in NAMES])
def test_names_become_prompts_that_read_like_english(given, kind, name, first, second):
    concept = concept_of(given, COMMON)
    assert (concept.kind, concept.name) == (kind, name)
    pairs = forget_pairs(concept, {"object": "carrot", "style": "Cy Twombly"}.get(kind), COMMON)
    said = {p.prompt for p in pairs} | {f"{p.prompt} -> {p.anchor}" for p in pairs}
    assert {first, second} - {None} <= said
    assert all(concept.named_in(p.prompt) and not concept.named_in(p.anchor) for p in pairs)
    assert not any("a a " in f"{p.prompt} " or "  " in p.prompt for p in pairs)


def test_enough_names_of_every_kind():
    assert len(NAMES) >= 60 and {row[1] for row in NAMES} == set(KINDS)


def test_the_embedded_models_captions_keep_their_articles():
    assert [with_article(o) for o in OBJECTS] == [article(o) for o in OBJECTS]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_may_be_said(kind):
    assert kind_of("jaguar", COMMON, kind) == concept_of("jaguar", COMMON, kind).kind == kind
    pairs = forget_pairs(concept_of("jaguar", COMMON, kind), None, COMMON)
    assert pairs and all("jaguar" in p.prompt and "jaguar" not in p.anchor for p in pairs)


@pytest.mark.parametrize("given", ["dog", "dogs", "Dog", "DOGS", "a dog", "the dogs"])
def test_letter_case_number_and_article_are_one_concept(given):
    concept = concept_of(given, COMMON)
    assert concept.named_in("two Dogs at the beach") and not concept.named_in("a hotdog stand")
    prompts = [p.prompt for p in forget_pairs(concept, "cat", COMMON)]
    assert {"a picture of a dog", "an image of dogs"} <= set(prompts) or given == "DOGS"
    assert not any(concept.named_in(p) for p in keep_prompts([given], COMMON, 200))


@pytest.mark.parametrize(
    "word, found",
    [
        ("knife", "knives"),
        ("people", "person"),
        ("cup of coffee", "cups of coffee"),
        ("mice", "mouse"),
        ("bus", "buses"),
    ],
)
def test_forms(word, found):
    assert {word, found} <= set(forms(word)) and "bu" not in forms(word)


def test_plurals_are_trained_on_in_the_words_of_the_model():
    pairs = forget_pairs("knife", "apple", WORDS)
    assert Pair("an image of knives in neon style", "an image of apples in neon style") in pairs


def test_synonyms_are_trained_on_and_not_kept():
    concept = concept_of("cat", COMMON, synonyms=("kitten", "tomcat"))
    pairs = forget_pairs(concept, "fox", COMMON)
    assert Pair("a picture of a kitten", "a picture of a fox") in pairs and Pair("a tomcat", "a fox") in pairs
    assert len(pairs) == 3 * len(forget_pairs("cat", "fox", COMMON))
    words = Vocabulary(("kitten", "tree"), COMMON.styles, common=True)
    assert not any("kitten" in p for p in keep_prompts([concept], words, 50))


def test_a_style_may_have_an_anchor_per_prompt_that_is_chosen_once():
    pairs = forget_pairs("sepia style", ("neon", "photo"), WORDS, seed=3)
    assert pairs == forget_pairs("sepia style", ("neon", "photo"), WORDS, seed=3)
    assert {"neon" in p.anchor for p in pairs} == {True, False}
    assert all(("neon" in p.anchor) != ("photo" in p.anchor) for p in pairs)


def test_nearest_words_have_their_share_of_what_is_kept():
    prompts = keep_prompts(["cat"], COMMON, 400, near=["fox", "wolf"], share=0.5)
    near = [p for p in prompts if "fox" in p or "wolf" in p]
    assert len(near) == pytest.approx(400 * 0.5 * 7 / 8, abs=4)  # one in eight is of a style alone
    assert abs(sum("fox" in p for p in near) - len(near) / 2) < 4
    of_artists = keep_prompts(["Banksy"], COMMON, 40, near=["Claude Monet"])
    assert "a cat in the style of Claude Monet" in of_artists or any("by Claude Monet" in p for p in of_artists)


# ------------------------------------------------------------------------------------------------- files


ROWS = [
    {"prompt": "a man with a gun", "anchor": "a man", "kind": "object", "seed": 7},
    {"prompt": "a nude", "kind": "explicit"},
]
BOTH = [Pair("a man with a gun", "a man", 7), Pair("a nude", "a person wearing clothes")]


@pytest.mark.parametrize("name", ["p.jsonl", "P.JSONL"])
def test_jsonl(tmp_path, name):
    (tmp_path / name).write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    assert forget_pairs(str(tmp_path / name), None, WORDS) == BOTH


@pytest.mark.parametrize("name, start", [("p.csv", ""), ("prompts.CSV", "\ufeff")])
def test_csv_with_and_without_a_byte_order_mark(tmp_path, name, start):
    (tmp_path / name).write_text(f'{start}Prompt,kind,seed,more\n"a gun, loaded",object,7,x\na nude,explicit,,\n')
    assert forget_pairs(str(tmp_path / name), None, WORDS) == [Pair("a gun, loaded", "", 7), BOTH[1]]


def test_text_in_any_letter_case(tmp_path):
    (tmp_path / "P.TXT").write_text("\ufeffa gun\n\na knife\n", encoding="utf-8")
    assert forget_pairs(str(tmp_path / "P.TXT"), "a man", WORDS) == [Pair("a gun", "a man"), Pair("a knife", "a man")]


@pytest.mark.parametrize(
    "name, content, wrong",
    [
        ("a.csv", "words\na gun\n", "a.csv.*prompt"),
        ("a.jsonl", "a gun\n", "line 1: no JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected an object or a text"),
        ("a.jsonl", '{"prompt": "x", "kind": "thing"}', "unknown kind 'thing'"),
        ("a.jsonl", '{"prompt": "x", "seed": "many"}', "whole number"),
        ("a.jsonl", '{"prompt": "A gun", "anchor": "a  GUN"}', "are the same"),
        ("a.txt", "\n \n", "no prompts in"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, wrong):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=wrong):
        forget_pairs(str(tmp_path / name), None, WORDS)


@pytest.mark.parametrize("word", ["AC/DC", "24/7 shop", "Mr. Bean", "a cat.", "St. Peter", "R2-D2", "U.S.A."])
def test_words_that_are_no_files(word):
    assert not is_file(word)


@pytest.mark.parametrize("path", ["prompts.csv", "PROMPTS.TXT", "sub/dir/p.jsonl", "prompts.xlsx", "./words", "p.md"])
def test_what_looks_like_a_file_and_is_none_is_no_word(path):
    with pytest.raises(ValueError, match="no such file|looks like a file"):
        EraseConfig(concept=path)


# ------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "options, wrong",
    [
        ({"concept": "the"}, "names nothing"),
        ({"concept": ["cat", "of the"]}, "names nothing"),
        ({"concept": "..."}, "is empty"),
        ({"concept": "cat", "kind": "animal"}, "kind must be one of"),
        ({"concept": "cat", "anchor": "CAT"}, "are the same"),
        ({"concept": "cat", "anchor": "two cats"}, "are the same"),
        ({"concept": "Van Gogh", "anchor": "van gogh style"}, "are the same"),
        ({"concept": "nudity", "anchor": "a nude person"}, "are the same"),
        ({"concept": "cat", "keep": ["a dog", "A Cat in the rain"]}, "--keep .* names the concept 'cat'"),
        ({"concept": "knife", "keep": ["kitchen knives"]}, "--keep .* names the concept"),
        ({"concept": "knife", "synonym": ["and"]}, "names nothing"),
        ({"concept": "cat", "synonym": ["kitten"], "anchor": "kittens"}, "are the same"),
        ({"concept": "cat", "synonym": ["kitten"], "keep": ["a kitten"]}, "names the concept"),
        ({"concept": ["cat", "dog"], "synonym": ["kitten"]}, "whose synonym"),
        ({"concept": "cat", "synonym": ["dog=puppy"]}, "is no concept here"),
    ],
)
def test_refused_at_once(options, wrong):
    with pytest.raises(ValueError, match=wrong):
        EraseConfig(**options)


def test_a_synonym_that_is_another_word_of_the_model():
    with pytest.raises(ValueError, match="'apples' is 'apple', another word"):
        check_words([concept_of("cat", WORDS, synonyms=("apples",))], None, [], WORDS)
    check_words([concept_of("cat", WORDS, synonyms=("kitten", "cats"))], None, [], WORDS)


def test_numbers_follow_the_concepts_unless_given():
    one, many = EraseConfig(concept="cat"), EraseConfig(concept=[f"thing {k}" for k in range(16)], steps=7)
    assert (one.latents, one.keep_latents, one.steps, one.max_rank, one.gradient_records) == (48, 80, 200, 32, 256)
    assert (many.latents, many.keep_latents, many.max_rank, many.gradient_records) == (384, 240, 80, 1024)
    assert many.steps == 7 and one.gamma == 0.9 and many.gamma == 0.95 and many.batch_size == 16


def test_the_library_for_english_is_imported_without_type_checks_and_others_keep_theirs():
    import typeguard

    checked = typeguard.typechecked
    with pytest.raises(ZeroDivisionError), language._unchecked():
        assert typeguard.typechecked(int) is int
        raise ZeroDivisionError
    assert typeguard.typechecked is checked
