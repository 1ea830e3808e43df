"""What the benchmark programs share, and that they take up only rows that were made alike."""

from pathlib import Path

import pytest

from eval import tables
from eval.pictograms import ablation
from eval.records import add_set, machine, make_parser, read_json, resolved, resumed, rows_like, write_json


def test_options_are_read_as_yaml_and_a_slip_is_one_message(capsys):
    parser = make_parser("What it does.\n\nMore of it.")
    add_set(parser)
    parser.add_argument("--seeds", type=int, default=4, help="how many")
    words = ["--set", "keep-weight=0", "--set", "anchor=", "--set", "on_top_of=a=b", "--set", "keep=[a cat, a dog]"]
    assert dict(parser.parse_args(words).set) == {
        "keep_weight": 0, "anchor": None, "on_top_of": "a=b", "keep": ["a cat", "a dog"]
    }  # fmt: skip
    assert parser.parse_args([]).set == []
    for slip in ("lr", "=1", "keep=[1"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--set", slip])
        assert f"argument --set: {'cannot read the value of' if '[' in slip else repr(slip)}" in capsys.readouterr().err
    shown = parser.format_help()
    assert "What it does." in shown and "More of it" not in shown
    assert "(default: 4)" in shown and "[]" not in shown and "None" not in shown


def test_a_results_file_is_whole_or_the_one_before(tmp_path):
    file = tmp_path / "new" / "found.json"
    assert read_json(file) == {} and rows_like(file, {}, ()) == []
    write_json(file, {"options": {"lr": 1}, "seeds_forget": 4, "rows": [1]})
    with pytest.raises(TypeError):
        write_json(file, {"rows": object()})
    assert [f.name for f in file.parent.iterdir()] == ["found.json"]
    head = {"options": {"lr": 1}, "seeds_forget": 4, "more": True}
    assert rows_like(file, head, ("options", "seeds_forget")) == read_json(file)["rows"] == [1]
    assert rows_like(file, {**head, "seeds_forget": 5}, ("options", "seeds_forget")) == []
    assert rows_like(file, head, ("options", "more")) == []


def test_measured_rows_are_gone_on_with_or_left_alone(tmp_path):
    file, head = tmp_path / "found.json", {"options": {"lr": 1, "steps": 9}, "seeds": 4}
    assert resumed(file, head, head) == {}
    write_json(file, {**head, "rows": [1]})
    assert resumed(file, {**head, "seeds": 5}, ("options",))["rows"] == [1]
    others = {
        "lr": {"options": {"lr": 2, "steps": 9}},
        "steps": {"options": {"lr": 1}},
        "new": {"options": {**head["options"], "new": 0}},
        "seeds": {"seeds": 5},
    }
    for named, other in others.items():
        with pytest.raises(SystemExit, match=f"error: .*found.json was made with another {named}; give another --out"):
            resumed(file, {**head, **other}, head)


def test_the_commands_of_earlier_rows_are_kept_in_their_order(tmp_path):
    file, rows = tmp_path / "found.json", []
    for name in ("a", "b", "b", "c", "a"):
        head = {"command": f"python -m {name}"}
        resumed(file, head, ())
        write_json(file, {**head, "rows": rows})
    assert head == {"command": "python -m a", "earlier": ["python -m b", "python -m c"]}


@pytest.mark.parametrize("options", [{"nosuch": 1}, {"gamma": 2.0}])
def test_an_option_that_is_none_ends_in_one_line(options):
    with pytest.raises(SystemExit, match="^--set: .*(nosuch|gamma)"):
        resolved(options)
    assert resolved({"gamma": 0.5})["gamma"] == 0.5 and "concept" not in resolved({})


def test_a_table_says_which_options_are_no_longer_the_defaults():
    assert tables.not_defaults({"options": resolved({})}) == ""
    text = tables.not_defaults({"options": resolved({"steps": 3, "moment_records": 64})})
    assert "`--steps 3` (200)" in text and "`--moment-records 64` (256)" in text and text.count("`") == 4


def test_machine_says_how_too():
    assert list(machine(workers=2, threads=1)) == ["processor", "cores", "workers", "threads"]


def test_the_ablation_takes_up_only_what_was_made_alike():
    rows = [{"concept": "cat"}]
    assert ablation.finished({}) == {}
    tables = {"default": {"options": {}, "rows": rows}, "gamma 0.7": {"options": {"gamma": 0.6}, "rows": rows},
              "no longer": {"options": {}, "rows": rows}}  # fmt: skip
    assert ablation.finished({"seeds_forget": 4, "variants": tables}) == {"default": rows}


def test_the_pages_of_measured_results_are_those_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tables", "--output", str(tmp_path / "pictograms.md")])
    monkeypatch.chdir(tables.RESULTS.resolve().parents[1])
    tables.main()
    there = {page for page, (name, _) in tables.BLOCKS.items() if (tables.RESULTS / f"{name}.json").is_file()}
    assert {page.name for page in tmp_path.glob("*.md")} == {"pictograms.md", *there} and there
    assert (tmp_path / "images" / "many.png").is_file()
    for page in tmp_path.glob("*.md"):
        assert page.read_text() == Path("docs", page.name).read_text()


def test_a_table_is_put_between_its_marks_and_nowhere_else():
    page = "one\n<!-- a -->\nold\n<!-- /a -->\ntwo\n"
    new = tables.filled(page, "a", "new\n")
    assert new == "one\n<!-- a -->\n\nnew\n\n<!-- /a -->\ntwo\n" == tables.filled(new, "a", "new\n")
    with pytest.raises(ValueError, match="no marks <!-- b --> and <!-- /b -->"):
        tables.filled(page, "b", "new")
