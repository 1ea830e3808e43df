"""The benchmark of lasting erasure: steps between looks, what is gained, what is run, and the section it becomes."""

import argparse

import pytest

from eval.pictograms.lasting import ATTACKS, REPORTED, crossing, gains, price, wanted, write
from eval.records import read_json
from eval.tables import lasting


def curve(*looks):
    return [{"step": step, "success": success} for step, success in looks]


def attack(way, steps, concept="knife", name="full", rate=1e-4):
    return {"way": way, "concept": concept, "attack": name, "rate": rate, "steps": steps, "curve": curve((8, 0.25))}


def test_half_is_reached_on_the_line_between_two_looks():
    assert crossing(curve((8, 0.25), (16, 0.75))) == 12
    assert crossing(curve((8, 0.5))) == 8 and crossing(curve((8, 1.0))) == 4
    assert crossing(curve((8, 0.0), (12, 0.49))) is None and crossing([]) is None


def test_gains_are_ratios_of_what_both_ways_have():
    rows = [attack("plain", 10), attack("lasting", 25),
            attack("plain", 20, rate=3e-5), attack("lasting", None, rate=3e-5),
            attack("plain", 10, "dog"), attack("plain", None, "cat"), attack("lasting", None, "cat"),
            attack("plain", None, name="benign-full"), attack("lasting", None, name="benign-full")]  # fmt: skip
    found = [(own["concept"], own["rate"], own["ratio"], own["least"]) for own in gains(rows, most=100)]
    assert found == [("knife", 1e-4, 2.5, False), ("knife", 3e-5, 5.0, True)]


def test_the_price_is_over_concepts_that_have_both():
    took = lambda way, concept, seconds: {"way": way, "concept": concept, "training": {"seconds": seconds}}  # noqa: E731
    assert price([took("plain", "knife", 40), took("lasting", "knife", 60), took("plain", "dog", 9)]) == 1.5
    assert price([took("plain", "knife", 40)]) is None


def test_each_erasure_is_scored_and_attacked_at_each_rate_beside_the_plain_one():
    args = argparse.Namespace(concept=None, attack=None, rate=None)
    jobs = wanted(args)
    assert len(jobs) == len(REPORTED) * 2 * (1 + sum(len(a.rates) for a in ATTACKS.values()))
    assert [job["way"] for job in jobs] == ["plain", "lasting"] * (len(jobs) // 2)
    args = argparse.Namespace(concept=["dog"], attack=["full"], rate=[1e-4])
    assert [job.get("rate") for job in wanted(args)] == [None, None, 1e-4, 1e-4]


def test_the_section_says_what_the_file_says(tmp_path):
    scores = dict.fromkeys(("UA", "IRA", "CRA", "neighbours", "context", "natural"), 98.0)
    half = {"0.5": {"UA": 87.5}, "0.25": {"UA": 12.5}}
    rows = [
        {"way": way, "concept": "knife", "erased": scores, "base": scores, "weaker": half,
         "training": {"seconds": seconds, "steps": 100, "trained_percent": 0.8}}
        for way, seconds in (("plain", 40), ("lasting", 60))
    ]  # fmt: skip
    rows += [attack("plain", 10.0), attack("lasting", None), attack("plain", None, name="benign-lora")]
    head = {"command": "python -m x", "set": {"lasting": 1}, "seeds": 4, "most": 192, "versions": {"torch": "2"},
            "machine": {"cores": 2, "processor": "p"}}  # fmt: skip
    write(tmp_path / "lasting.json", head, rows)
    page = lasting(read_json(tmp_path / "lasting.json"))
    for words in ("`--lasting 1`", "1.5 times a plain run", "| knife | full | 0.0001 | 10 | > 192 | ≥ 19.2 |",
                  "87.5 | 12.5", "| knife | plain | benign-lora | 0.0001 | 8 | 25 |", "`python -m x`"):  # fmt: skip
        assert words in page, words


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_of_kinds_that_there_are(name):
    assert ATTACKS[name].kind in ("lora", "full", "inversion") and ATTACKS[name].rates
