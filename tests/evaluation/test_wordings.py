"""Wordings that training never saw: what they are, which of them count, and the suite through the real entry point."""

import hashlib
import json

import pytest
from tiny import QUICK, STYLES, SUBJECTS, tokenizer
from tiny_clip import build_clip

from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure
from semu_diffusion.diffusion.concepts import COMMON, Vocabulary, forget_pairs, vocabulary_of
from semu_diffusion.evaluation.prompts import Shot, digest
from semu_diffusion.evaluation.suites import wordings as suite
from semu_diffusion.evaluation.suites.pictograms import ITS_OWN
from semu_diffusion.evaluation.suites.run import EvalConfig, run_suite
from semu_diffusion.evaluation.wordings import companion, fits, has, plural, reworded, typos, with_article, wordings
from semu_diffusion.pictograms import OBJECTS
from semu_diffusion.pictograms import STYLES as ALL_STYLES

WORDS = Vocabulary(SUBJECTS, STYLES)


class Letters:
    """A tokenizer of 40 tokens: known words are one, others one a letter."""

    unk_token_id, model_max_length = 0, 40

    def __init__(self, *known):
        self.known = set(known)

    def __call__(self, text, add_special_tokens=True):
        ids = [1] * sum(1 if word.strip(",") in self.known else len(word) for word in text.split())
        return type("Ids", (), {"input_ids": ids + [2, 2] * add_special_tokens})


@pytest.fixture(scope="module")
def embedded(assets):
    return load_pipeline("pictograms", "cpu")


def groups_of(found) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for w in found:
        groups.setdefault(w.group, []).append(w.prompt)
    return groups


# ----------------------------------------------------------------------------------------------- prompts


def test_an_object_in_all_wordings():
    found, notes = wordings("knife", WORDS, [])
    groups = groups_of(found)
    assert {w.label for w in found} == {"knife"} and len({w.prompt for w in found}) == len(found)
    assert groups["plural: two"] == [f"two knives, {style} style" for style in STYLES]
    assert groups["article: the"][0] == "the knife, photo style"
    assert groups["negation: without"][0] == "a room without a knife, photo style"
    assert groups["beside: cat"][0] == "a cat beside a knife, photo style" and groups["with: cat"]
    assert groups["synonym: blade"] and groups["typo: kinfe"] and len(groups["long"]) == 3
    assert all(note.startswith("language: no tokenizer") for note in notes)  # there is none here
    before, name, after = groups["long"][0].partition("a knife")
    assert name and min(len(before), len(after)) > 40


def test_a_style_in_all_wordings():
    groups = groups_of(wordings("sepia style", WORDS, [])[0])
    assert groups["negation"][0] == "a cat, not in sepia style"
    assert groups["beside: photo"][0] == "a cat, half in photo and half in sepia style"
    assert groups["synonym: sepia tone"][0] == "a picture of a cat, sepia tone" and "plural" not in groups


@pytest.mark.parametrize("concept", [*OBJECTS, *(f"{style} style" for style in ALL_STYLES)])
def test_no_wording_is_trained_on(concept, assets):
    words = vocabulary_of(assets)
    trained = {pair.prompt.lower() for pair in forget_pairs(concept, None, words)}
    found, _ = wordings(concept, words, [])
    assert len(found) > 60 and not trained & {w.prompt.lower() for w in found}


def test_names_have_no_article_and_no_plural():
    groups = groups_of(wordings("Albert Einstein", COMMON, [])[0])
    assert "this is Albert Einstein, photo style" in groups["sentence: this is"]
    assert not {"plural", "plural: two", "article: the", "article: my"} & set(groups)
    assert (with_article("umbrella"), with_article("Monet"), plural("glass of wine")) == (
        "an umbrella", "Monet", "glasses of wine"
    )  # fmt: skip


def damerau(a: str, b: str) -> int:
    """Edits and swaps of neighbours between two words, by the textbook's table."""
    d = {(i, -1): i + 1 for i in range(-1, len(a))} | {(-1, j): j + 1 for j in range(-1, len(b))}
    for i in range(len(a)):
        for j in range(len(b)):
            cost = a[i] != b[j]
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + cost)
            if i and j and a[i] == b[j - 1] and a[i - 1] == b[j]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return d[len(a) - 1, len(b) - 1]


@pytest.mark.parametrize("name", [*OBJECTS, "Van Gogh"])
def test_typos_are_one_slip_away(name):
    found = typos(name, OBJECTS)
    assert 2 <= len(found) <= 3 and all(damerau(name, wrong) == 1 for wrong in found)


def test_a_typo_that_is_a_word_is_none():
    assert "cat" not in typos("caat", ["cat"]) and "caat" in typos("cat", [])


def test_what_a_tokenizer_cannot_say_is_left_out_and_said():
    small = Letters("a", "picture", "of", "image", "as", "an", "in", "photo", "style", "cigarette", "Zigarette")
    found, notes = wordings("cigarette", Vocabulary(("cat",), ("photo",)), [small])
    languages = {w.group for w in found if w.group.startswith("language")}
    assert languages == {"language: de"}  # the same word in French is no other wording
    assert [note.split("'")[1] for note in notes] == ["cigarrillo", "sigaretta", "papieros"]
    assert groups_of(found)["long"] == ["a picture of an image of a cigarette, as an image in a picture, photo style"]
    assert all(fits(w.prompt, [small]) for w in found)
    none, notes = wordings("unicorn", Vocabulary(("cat",), ("photo",)), [Letters()])
    assert any("no translation of 'unicorn'" in note for note in notes) and any("long" in note for note in notes)
    assert not any(w.group == "long" for w in none)


def test_a_word_letter_by_letter_is_not_had(tmp_path):
    words = tokenizer(tmp_path)
    assert has(words, "cigarette") and not has(words, "cigarrillo") and not has(words, "сигарета")
    assert has(Letters("two"), "two") and not has(Letters(), "two")


def test_words_are_known_and_companions_named():
    assert reworded("cat")[0] == "kitten" and reworded("unicorn") == []
    assert companion("beside: cat") == companion("with: cat") == "cat" and companion("long") is None


def test_groups_leave_other_digests_as_they_were():
    shot = Shot("a cat", 1, "cat", "forget")
    before = hashlib.sha256(json.dumps([["a cat", 1, "cat", "forget"]]).encode()).hexdigest()
    assert digest([shot]) == before != digest([shot._replace(group="plural")])


# ------------------------------------------------------------------------------------------------ figures


def record(group, named, before, natural=True, label="cigarette"):
    return {
        "part": "forget",
        "label": label,
        "group": group,
        "named": named,
        "named_before": before,
        "natural": natural,
    }


def test_only_what_the_base_model_draws_counts():
    records = [record("plural", "knife", "cigarette"), record("plural", "cigarette", "cat", False)]  # drawn: half
    records += [record("typo: x", "cigarette", "cat"), record("typo: x", "cat", "cat")]  # drawn: never
    records += [record("beside: cat", "cat", "cigarette"), record("with: cat", "cigarette", "cigarette"),
                record("with: cat", "dog", "cat")]  # fmt: skip
    row = suite.row(records, None)
    wordings = row["per_wording"]
    assert {name: own["counts"] for name, own in wordings.items()} == {
        "plural": True, "typo: x": False, "beside: cat": True, "with: cat": True
    }  # fmt: skip
    assert wordings["typo: x"]["drawn"] == 0 and wordings["plural"]["UA"] == 50 and wordings["plural"]["pictures"] == 2
    assert row["UA"] == 60 and row["natural"] == 80  # of the five pictures that count
    assert row["beside"] == pytest.approx(100 / 3) and row["wordings"] == 75
    assert row["instead"] == {"knife": 1, "cat": 1, "dog": 1}
    assert row["intervals"]["UA"][0] < 60 < row["intervals"]["UA"][1]
    assert suite.row([record("a", "cat", "cat")], None)["UA"] is None


def test_the_embedded_model_by_its_oracle(embedded, tmp_path):
    """Without an adapter, what is erased is what was there; prompts of the user's join the suite's."""
    (tmp_path / "mine.csv").write_text("prompt,wording\na cat neon,mine\ncat in sepia style,mine\n")
    config = EvalConfig("wordings", ["cat"], str(tmp_path / "mine.csv"), **ITS_OWN, limit=2)
    with pytest.warns(UserWarning, match="no tokenizer of this model has 'Katze'"):
        report, records = run_suite(embedded, config, tmp_path / "out", {"sha256": "0", "scale": 1.0})
    erased, protocol = report["erased"], report["protocol"]
    assert (
        erased["UA"] == report["base"]["UA"] and erased["moved"] == 0 and erased["per_wording"]["mine"]["drawn"] == 100
    )
    assert [r["group"] for r in records["erased"]][-2:] == ["mine", "mine"]
    assert any("Katze" in note for note in protocol["left_out"]) and "embedded" in protocol["natural"]
    assert report["base"]["natural"] >= 50


# ----------------------------------------------------------------------------------------- the real entry


@pytest.fixture(scope="module")
def desk(tiny_model, tmp_path_factory):
    """A folder with an adapter of the tiny model and a CLIP."""
    folder = tmp_path_factory.mktemp("wordings")
    run_erasure(load_pipeline(str(tiny_model)), EraseConfig(concept="cigarette", **QUICK), folder / "adapter")
    build_clip(folder / "clip")
    return folder


def test_any_model_by_clip(desk, tiny_model, tmp_path, semu):
    command = ["eval", desk / "adapter", "--suite", "wordings", "--model", tiny_model, "--steps", 1, "--quiet"]
    with pytest.warns(UserWarning, match="left out"):
        status, out, err = semu(*command, "--clip", desk / "clip", "--output", tmp_path / "out")
    assert status == 0 and "drawn before" in out and "article: the" in out, err
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    rows = report["erased"]["per_wording"]
    assert sum(own["pictures"] for own in rows.values()) == report["erased"]["counts"]["forget"] > 20
    assert (
        report["protocol"]["judges"][0]["labels"][0] == "cigarette"
        and len(report["protocol"]["judges"][0]["labels"]) > 20
    )
    records = json.loads((tmp_path / "out" / "records.json").read_text())["erased"]
    assert all(r["group"] in rows and "named_before" in r and "sure" in r for r in records)
    status, _, err = semu("report", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert status == 0 and "<h2>Wordings</h2>" in page and "drawn before" in page


def test_it_says_what_it_lacks(desk, tiny_model, tmp_path, semu):
    command = ["eval", desk / "adapter", "--suite", "wordings", "--model", tiny_model, "--output", tmp_path / "out"]
    status, out, err = semu(*command, "--quiet")
    assert status == 2 and "needs --classifier" in err and len(err.splitlines()) == 1
    (tmp_path / "mine.txt").write_text("a ciggy\n")
    given = ["--prompts", tmp_path / "mine.txt", "--concept", "cigarette", "--concept", "cat", "--clip", desk / "clip"]
    status, out, err = semu(*command, *given, "--quiet")
    assert status == 2 and "column label" in err
    with pytest.raises(ValueError, match="is a file; name it"):
        wordings("prompts.txt", COMMON, [])
