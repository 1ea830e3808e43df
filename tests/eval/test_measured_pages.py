"""What the pages say of memory, time and the distilled stand-in is what the results files hold."""

import re
from importlib.util import find_spec

from pages import PAGES, ROOT, words_of

from eval.records import read_json
from eval.scale import distilled, peaks, sections

RESULTS = ROOT / "eval" / "results"


def test_the_distilled_stand_in_is_forgotten_in_its_own_way():
    found, page = read_json(RESULTS / "distilled.json"), PAGES["docs/checkpoints.md"]
    assert distilled.shown(found) in page and found["command"].split(" --")[0] in page
    assert {row["concept"] for row in found["rows"]} >= set(distilled.CHOSEN)
    for row in found["rows"]:
        assert row["erased"]["UA"] >= 97 and row["erase"][-2:] == ["--concept", row["concept"]]
        assert row["erased_with"] == {"sampler_steps": 4, "guidance": 0.0}
        assert row["drawn_with"] == {"steps": 4, "guidance": 0.0}
    own, other = (found["quality"][k] for k in ("distilled", "teacher in the distilled model's sampler"))
    words = words_of(page)
    assert f"names the object in {own['object']:.0f} %" in words
    assert f"{other['object']:.0f} % for the teacher in the same sampler" in words


def test_the_estimate_is_within_15_percent_of_what_was_measured():
    found = read_json(RESULTS / "memory.json")
    assert len(found["rows"]) >= 3
    for row in found["rows"]:
        assert abs(row["peak"]["ratio"] - 1) <= 0.15, row["model"]
        highest = [max(stage[k] for stage in row["stages"].values()) for k in ("estimate", "measured")]
        assert highest == [row["peak"]["estimate"], row["peak"]["measured"]]


def test_the_page_of_costs_has_memory_and_time():
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert "\n".join(sections.memory_section(read_json(RESULTS / "memory.json"))) in page
    assert "\n".join(sections.time_section(read_json(RESULTS / "phases.json"))) in page
    assert "## What fits on a card" in page


def test_the_highest_of_running_sums():
    changes = [(0, 5), (1, 3), (3, -4), (5, 10), (9, -12)]  # running: 5, 8, 4, 14, 2
    assert peaks.highest(changes, [("a", 1, 4), ("b", 4, 8), ("a", 9, 9)]) == {"a": 8, "b": 14}


def test_the_times_of_classify_are_those_of_its_file():
    digits, photos = read_json(RESULTS / "classify_time.json")["rows"]
    table = photos["table"]
    words = words_of(PAGES["docs/classifiers.md"])
    minutes, rest = divmod(round(photos["wall_seconds"]), 60)
    assert f"the digits {digits['wall_seconds']:.0f} s" in words and f"{minutes} minutes and {rest} seconds" in words
    assert f"took {table['original']['seconds']:.0f} and {table['retrain']['seconds']:.0f} s" in words
    assert f"forgetting a tenth {table['semu']['seconds']:.0f} s" in words and photos["command"] in words
    for key in ("UA", "TA"):
        assert all(f"{table[name][key]:.1f}" in words for name in ("semu", "retrain"))


def test_what_nets_reach_on_photographs():
    model, words = ROOT / "semu_diffusion" / "assets" / "cifar10", words_of(PAGES["docs/classifiers.md"])
    narrow, wide = read_json(model / "judge" / "check.json"), read_json(model / "check.json")
    net = read_json(model / "judge" / "model.json")
    assert f"ResNet-18 of width {net['arguments']['width']} is right on {narrow['test_accuracy']:.2f} %" in words
    assert f"after {narrow['trained'].split('--epochs ')[1].split()[0]} epochs" in words
    assert f"one of width 64 on {wide['real_accuracy']:.1f} % of {wide['pictures']:,}" in words


def test_every_results_file_is_in_the_table_of_contributing():
    rows = [line for line in PAGES["CONTRIBUTING.md"].splitlines() if line.startswith("| `")]
    named = [file for row in rows for file in re.findall(r"`(\w+\.json)`", row.split("|")[1])]
    assert sorted(named) == sorted(file.name for file in RESULTS.glob("*.json"))
    for module in re.findall(r"python -m (eval[.\w]*)", "\n".join(rows)):
        assert find_spec(module), module
