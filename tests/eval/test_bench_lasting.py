"""The benchmark of lasting erasure: steps between looks, what is gained, what is run, and the section it becomes."""

import argparse

import pytest
import torch

from eval.pictograms import lasting as bench
from eval.pictograms.lasting import (
    ATTACKS,
    REPORTED,
    called,
    crossing,
    gains,
    medians,
    parse_args,
    price,
    wanted,
    write,
)
from eval.pictograms.lasting_tables import lasting, times_table, variants
from eval.records import read_json
from semu_diffusion.attacks.target import Pictures


def curve(*looks):
    return [{"step": step, "success": success} for step, success in looks]


def attack(way, steps, concept="knife", name="full", rate=1e-4, pictures=16):
    return {"way": way, "concept": concept, "attack": name, "rate": rate, "pictures": pictures, "steps": steps,
            "curve": curve((8, 0.25))}  # fmt: skip


def test_half_is_reached_on_the_line_between_two_looks():
    assert crossing(curve((8, 0.25), (16, 0.75))) == 12
    assert crossing(curve((8, 0.5))) == 8 and crossing(curve((8, 1.0))) == 4
    assert crossing(curve((8, 0.0), (12, 0.49))) is None and crossing([]) is None


def test_medians_are_over_concepts_that_all_ways_have():
    rows = [attack("plain", 10), attack("plain", 14, "dog"), attack("plain", None, "wine"), attack("plain", 99, "cat"),
            attack("lasting", 25), attack("lasting", None, "dog"), attack("lasting", None, "wine"),
            attack("plain", 7, pictures=64), attack("plain", None, name="benign-full")]  # fmt: skip
    found = {(own["attack"], own["pictures"]): own for own in medians(rows)}
    assert set(found) == {("full", 16), ("full", 64)}
    assert found["full", 16]["concepts"] == ["dog", "knife", "wine"]
    assert found["full", 16]["steps"] == {"plain": 14, "lasting": None} and found["full", 64]["steps"] == {"plain": 7}


def test_gains_are_at_the_rate_that_is_worst_for_lasting():
    rows = [attack("plain", 10), attack("lasting", 25), attack("salun", 20), attack("new word", 50),
            attack("plain", 20, rate=3e-5), attack("lasting", None, rate=3e-5), attack("salun", 40, rate=3e-5),
            attack("plain", 5, name="lora-4"), attack("lasting", None, name="lora-4"),
            attack("plain", 2, pictures=4), attack("lasting", 3, pictures=4)]  # fmt: skip
    full, lora = gains(medians(rows), most=100)
    assert full == {"attack": "full", "rate": 1e-4, "plain": 2.5, "best": "salun", "ratio": 1.25, "least": False,
                    "others": {"plain": 2.5, "salun": 1.25}}  # fmt: skip
    assert lora == {"attack": "lora-4", "rate": 1e-4, "plain": 20.0, "best": "plain", "ratio": 20.0, "least": True,
                    "others": {"plain": 20.0}}  # fmt: skip
    cells = ["| SalUn | 1.2 |", "| plain | 2.5 |"]
    assert times_table([full]).splitlines()[2:] == cells
    assert times_table([full, lora]).splitlines()[2:] == ["| SalUn | 1.2 | – |", "| plain | 2.5 | ≥ 20.0 |"]


def test_a_new_word_is_taught_by_the_same_pictures():
    prompts = ["a knife in neon style", "a knife in sepia style"]
    attacker = argparse.Namespace(concept="knife", prompts=list(prompts), shown=Pictures(torch.zeros(2, 1), prompts))
    assert called(attacker, "wug").prompts == ["a wug in neon style", "a wug in sepia style"]
    assert attacker.shown.prompts == attacker.prompts and prompts[0] == "a knife in neon style"


@pytest.mark.parametrize("way, name", [("new word", "wug"), ("plain", "knife")])
def test_inversion_replaces_the_word_that_is_in_the_prompts(way, name, monkeypatch):
    asked = []
    judged, config = lambda states: {"success": 0.5}, argparse.Namespace(inversion_steps=3)
    attacker = argparse.Namespace(target=None, shown=None, prompts=[f"a {name}"], judged=judged, config=config)
    monkeypatch.setattr(bench, "attacker_of", lambda *job: attacker)
    found = argparse.Namespace(embedding=None)
    monkeypatch.setattr(
        "semu_diffusion.attacks.inversion.invert", lambda t, concept, *_: asked.append(concept) or found
    )
    states = lambda t, prompts, concept, e: asked.append(concept) or torch.zeros(1)  # noqa: E731
    monkeypatch.setattr("semu_diffusion.attacks.inversion.states", states)
    row = bench.attacked(way, "knife", "inversion", 5e-3, 16, argparse.Namespace())
    assert asked == [name, name] and row == {"curve": [{"step": 3, "success": 0.5}], "steps": None}


def test_methods_come_from_the_benchmark(tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text('{"summary": {"salun": {}}}')
    args = parse_args(["--benchmark", str(tmp_path / "benchmark.json"), "--method", "salun", "--pictures", "4"])
    assert args.method == ["salun"] and args.pictures == [4]
    with pytest.raises(SystemExit):
        parse_args(["--benchmark", str(tmp_path / "benchmark.json"), "--method", "uce"])
    assert "no reported row of uce" in capsys.readouterr().err


def test_the_price_is_over_concepts_that_have_both():
    took = lambda way, concept, seconds: {"way": way, "concept": concept, "training": {"seconds": seconds}}  # noqa: E731
    assert price([took("plain", "knife", 40), took("lasting", "knife", 60), took("plain", "dog", 9)]) == 1.5
    assert price([took("plain", "knife", 40)]) is None


def test_each_erasure_is_scored_and_attacked_at_each_rate_beside_the_others():
    args = argparse.Namespace(concept=None, attack=None, rate=None, pictures=[16], method=[])
    jobs = wanted(args)
    each = sum(len(a.rates) * (2 if a.benign else 3) for a in ATTACKS.values())
    assert len(jobs) == len(REPORTED) * (2 + each)
    args = argparse.Namespace(concept=["dog"], attack=["full"], rate=[1e-4], pictures=[4, 16], method=["salun"])
    ways = ["plain", "lasting", "new word", "salun"]
    assert [job["way"] for job in wanted(args)] == ["plain", "lasting", *ways, *ways]
    assert [job.get("pictures") for job in wanted(args)] == [None, None, *[4] * 4, *[16] * 4]


def test_the_section_says_what_the_file_says(tmp_path):
    scores = dict.fromkeys(("UA", "IRA", "CRA", "neighbours", "context", "natural"), 98.0)
    half = {"0.5": {"UA": 87.5}, "0.25": {"UA": 12.5}}
    rows = [
        {"way": way, "concept": "knife", "erased": scores, "base": scores, "weaker": half,
         "training": {"seconds": seconds, "steps": 100, "trained_percent": 0.8}}
        for way, seconds in (("plain", 40), ("lasting", 60))
    ]  # fmt: skip
    rows += [
        attack("plain", 10.0),
        attack("lasting", None),
        attack("plain", None, name="benign-lora"),
        attack("plain", 6.0, pictures=4),
        attack("lasting", 9.0, pictures=4),
        attack("new word", 5.0, pictures=4),
        attack("plain", 30.0, "dog", "lora-4"),
        attack("lasting", 12.0, "dog", "lora-4"),
    ]
    head = {"command": "python -m x", "set": {"lasting": 1}, "seeds": 4, "most": 192, "versions": {"torch": "2"},
            "machine": {"cores": 2, "processor": "p"}}  # fmt: skip
    write(tmp_path / "lasting.json", head, rows)
    page = lasting(read_json(tmp_path / "lasting.json"))
    for words in ("`--lasting 1`", "1.5 times a plain run", "| steps | lora-4 0.0001 | full 0.0001 |",
                  "| lasting | 12 | > 192 |", "Concepts: dog, knife.", "| concepts | 1 | 1 |",
                  "at least 19.2 times the steps of plain.",
                  "Sooner than after a plain run: dog against `lora-4` at 0.0001, 16 pictures (12 steps instead of 30)",
                  "| steps, by pictures | full 0.0001: 4 | full 0.0001: 16 |", "| lasting | 9 | > 192 |\n| concepts |",
                  "87.5 | 12.5", "| % | benign-lora 0.0001 |", "| plain | 25.0 |", "`python -m x`"):  # fmt: skip
        assert words in page, words


def test_other_options_stand_side_by_side():
    scores = dict.fromkeys(("UA", "IRA", "CRA", "neighbours", "context", "natural"), 98.0)
    row = {"way": "lasting", "concept": "guitar", "erased": scores, "training": {"seconds": 60, "trained_percent": 0.8}}
    files = [
        {"set": options, "most": 192, "command": f"python -m {name}", "rows": [row, attack("lasting", steps)]}
        for name, options, steps in (("x", {"lasting": 4}, 9.0), ("y", {"lasting": 4, "max_rank": 96}, None))
    ]
    lines = variants(files).splitlines()
    assert (
        lines[-6:-2]
        == [
            "| options | UA | IRA | CRA | neighbours | context | natural | trained % | s | full 0.0001 |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            "| `--lasting 4` | 98.0 | 98.0 | 98.0 | 98.0 | 98.0 | 98.0 | 0.80 | 60 | 9 |",
            "| `--lasting 4 --max-rank 96` | 98.0 | 98.0 | 98.0 | 98.0 | 98.0 | 98.0 | 0.80 | 60 | > 192 |",
        ]
        and lines[-1] == "`python -m x`, `python -m y`."
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_of_kinds_that_there_are(name):
    assert ATTACKS[name].kind in ("lora", "full", "inversion") and ATTACKS[name].rates
