"""Rows run once more: which, what counts as a difference, and what is written."""

import sys

import pytest

from eval.pictograms import again
from eval.pictograms.again import differences, leaves, main, sample
from eval.records import read_json, write_json


def test_times_and_what_the_file_lacks_are_no_differences():
    old = {
        "scores": {"UA": 1.5, "IRA": 97.0},
        "cost": {"seconds": 3.0, "peak_memory_mb": 9, "model_memory_mb": 1},
        "names": ["a", "b"],
    }
    new = {"scores": {"UA": 1.5, "IRA": 97.0, "natural": 3}, "cost": {"seconds": 4.0, "peak_memory_mb": 8},
           "names": ("a", "b")}  # fmt: skip
    assert differences(old, new) == {}
    new["scores"]["IRA"] = 97.00001
    assert differences(old, {**new, "names": ["a"]}) == {"scores.IRA": [97.0, 97.00001], "names.1": ["b", None]}
    assert dict(leaves({"a": [{"b": None}], "seconds": 2})) == {"a.0.b": None}


def test_the_sample_is_of_reported_rows_and_that_of_its_seed():
    rows = [{"phase": "report", "seed": k} for k in range(20)] + [{"phase": "search", "seed": k} for k in range(80)]
    first = sample("benchmark", rows, 4, seed=0)
    assert len(first) == 4 and first == sample("benchmark", rows, 4, seed=0) != sample("benchmark", rows, 4, seed=1)
    assert all(row["phase"] == "report" for row in first) and len(sample("benchmark", rows, 99, 0)) == 20
    assert sample("many", [{"count": 1}, {"count": 2}, {"count": 16}], 9, 0) == [{"count": 2}]


@pytest.mark.parametrize("value, same", [(7.0, 1), (8.0, 0)])
def test_what_came_out_otherwise_is_written(tmp_path, monkeypatch, value, same):
    row = {
        "way": "stack",
        "concepts": ["dog", "pizza"],
        "count": 2,
        "scores": {"UA": 7.0},
        "change_from_alone": {"a": 1},
    }
    write_json(tmp_path / "many.json", {"rows": [row]})
    monkeypatch.setattr(again, "RESULTS", tmp_path)
    monkeypatch.setitem(again.FILES, "many", lambda row, found, work: {"count": 2, "scores": {"UA": value}})
    output = tmp_path / "again.json"
    monkeypatch.setattr(sys, "argv", ["again", "--file", "many", "--output", str(output)])
    main()
    found = read_json(output)
    assert found["same"] == same and [(r["file"], r["way"], r["concepts"]) for r in found["rows"]] == [
        ("many", "stack", ["dog", "pizza"])
    ]
    assert found["rows"][0]["differences"] == ({} if same else {"scores.UA": [7.0, 8.0]})
