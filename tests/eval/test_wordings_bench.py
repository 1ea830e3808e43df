"""The bench of unseen wordings: the anchor in the concept's place and what is added up; the order of anchors."""

import pytest

from eval import tables
from eval.pictograms import anchors
from eval.pictograms.wordings import CONCEPTS, in_place, summary
from semu_diffusion.diffusion.concepts import vocabulary_of
from semu_diffusion.evaluation.wordings import wordings

ASKED = {
    ("the airplane, photo style", "article: the"): "the football, photo style",
    ("an airplane with a rocket", "with: rocket"): "a football with a rocket",
    ("a rocket beside an airplane", "beside: rocket"): "a rocket beside a football",
    ("two airplanes, sepia style", "plural: two"): "two footballs, sepia style",
    ("a picture of a plane", "synonym: plane"): "a picture of a football",
    ("obraz: samolot", "language: pl"): None,
}


@pytest.mark.parametrize("prompt, group", ASKED)
def test_the_anchor_is_asked_for_in_the_same_words(prompt, group):
    assert in_place(prompt, group, "airplane", "football") == ASKED[prompt, group]


@pytest.mark.parametrize("concept", CONCEPTS)
def test_no_prompt_asks_for_the_concept_once_the_anchor_is_in_its_place(concept, assets):
    for w in wordings(concept, vocabulary_of(assets), [])[0]:
        asked = in_place(w.prompt, w.group, w.label, "teapot")
        assert asked and "teapot" in asked and w.label not in asked


def row(concept, UA, natural, counts=(True, True)):
    each = {name: {"UA": UA, "natural": natural, "drawn": 90.0, "pictures": 6, "counts": own}
            for name, own in zip(("long", "typo: x"), counts)}  # fmt: skip
    side = {"UA": UA, "natural": natural, "beside": 50.0, "wordings": 40.0, "instead": {}, "per_wording": each}
    before = {name: {**own, "natural": 90.0} for name, own in each.items()}
    base = {**side, "natural": 90.0, "per_wording": before}
    anchor = {"asked": "car", "pictures": 9, "natural": 88.0, "natural_erased": natural}
    return {"concept": concept, "anchors": ["car"], "base": base, "erased": side, "anchor": anchor}


def test_means_over_concepts_and_over_wordings_that_count():
    rows = [row("dog", 100.0, 80.0), row("knife", 90.0, 90.0, (True, False))]
    total = summary(rows)
    assert total["erased"]["UA"] == 95 and total["erased"]["natural"] == 85 and total["base"]["natural"] == 90
    assert total["anchor"] == {"natural": 88.0, "natural_erased": 85.0} and total["worst_UA"] == ["knife", 90.0]
    machine = {"processor": "x", "cores": 2, "workers": 1, "threads": 1}
    found = {"summary": total, "rows": rows, "options": {}, "command": "c", "versions": {}, "machine": machine}
    text = tables.wordings(found)
    assert "| **mean** |  | 95.0 | 85.0 | 90.0 | 88.0 | 50.0 | 50.0 |" in text
    assert "| long | 95.0 | 85.0 | 90.0 | 12 |" in text and "| typo | 100.0 | 80.0 | 90.0 | 6 |" in text


def test_the_most_telling_anchors_run_first_and_the_table_goes_by_concept():
    rows = [
        {"anchor": a, "near": n, "concept": c} for n in anchors.NEAR for a in anchors.ANCHORS for c in anchors.CONCEPTS
    ]
    assert rows[:3] == [{"anchor": "chosen", "near": 0.5, "concept": c} for c in anchors.CONCEPTS]
    assert len(rows) == 36 and [r["concept"] for r in sorted(rows, key=anchors.order)][:12] == ["guitar"] * 12
