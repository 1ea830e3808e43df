"""The benchmark of classifier unlearning in miniature: what it writes, that it goes on, and what the report says."""

import io
import json
from pathlib import Path

import pytest
import torch

from eval.classification import benchmark, jobs, report
from semu_diffusion.classification import Split, random_split
from semu_diffusion.metrics.unlearning import average_gap, mean_interval

SMALL = ["--data", "digits", "--subset", "240", "--width", "2", "--epochs", "2", "--passes", "1"]
SMALL += ["--forget-passes", "1", "--seeds", "2", "--setting", "class"]
METHODS = ("FT", "SEMU")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    methods = [word for name in METHODS for word in ("--method", name)]
    return [*SMALL, *methods, "--cache", str(folder / "cache"), "--output", str(folder / "found.json")]


@pytest.fixture(scope="module")
def results(arguments):
    benchmark.main(arguments)
    return json.loads(Path(arguments[-1]).read_text())


def test_every_method_is_measured_on_every_seed_it_can_work_on(results):
    rows = {(r["table"], r["setting"], r["method"], r["seed"]) for r in results["rows"]}
    expected = {("retain", m) for m in ("Retrain", "Original", *METHODS)}
    expected |= {("forget", m) for m in ("Retrain", "Original", "SEMU")}  # FT needs retain data
    assert rows == {(t, k, m, s) for t, m in expected for k in ("class",) for s in (0, 1)}
    measures = {"UA", "RA", "TA", "MIA", "gap", "RMIA", "RMIA_TPR", "KL", "seconds", "time", "trained", "bytes"}
    assert all(measures <= set(r) or "failed" in r for r in results["rows"])
    assert {"command", "options", "versions", "machine", "seeds"} <= set(results)


def test_the_search_never_uses_a_reported_seed_or_the_test_set(results, arguments):
    assert {r["seed"] for r in results["search"]} == {jobs.SEARCH_SEED} and jobs.SEARCH_SEED not in results["seeds"]
    options = benchmark.options_of(benchmark.parse_args(arguments))
    data = jobs.data_of(options)
    searched, reported = (jobs.parts_of(options, "random10", s) for s in (jobs.SEARCH_SEED, 0))
    assert searched.test.dataset is data.held_out and reported.test.dataset is data.test
    assert searched.forget.indices != reported.forget.indices
    for name, hyper in results["chosen"].items():
        table, setting, method = name.split("/")
        mine = [r for r in results["search"] if (r["table"], r["setting"], r["method"]) == (table, setting, method)]
        assert len(mine) == 4 and hyper == min((r for r in mine if "gap" in r), key=lambda r: r["gap"])["hyper"]
        assert all(r["hyper"] == hyper for r in results["rows"]
                   if (r["table"], r["setting"], r["method"]) == (table, setting, method))  # fmt: skip


def test_gaps_and_tables_follow_from_the_rows(results):
    rows = [r for r in results["rows"] if (r["table"], r["setting"]) == ("retain", "class")]
    for row in rows:
        target = next(r for r in rows if r["method"] == "Retrain" and r["seed"] == row["seed"])
        assert row["gap"] == pytest.approx(average_gap(row, target))
    cell = results["tables"]["retain"]["class"]["FT"]
    values = [r["gap"] for r in rows if r["method"] == "FT"]
    assert cell["gap"] == pytest.approx(list(mean_interval(values))) and cell["seeds"] == 2 and cell["failed"] == 0
    nothing = next(r for r in rows if r["method"] == "Original")
    semu = next(r for r in rows if r["method"] == "SEMU")
    assert nothing["trained"] == nothing["bytes"] == 0 < semu["trained"] < next(
        r for r in rows if r["method"] == "FT")["trained"]  # fmt: skip


def test_models_are_trained_without_the_forget_set_and_kept(results, arguments):
    options = benchmark.options_of(benchmark.parse_args(arguments))
    cached = {p.name for p in Path(options.cache).iterdir()}
    assert cached == set(jobs.model_names(options, ["class"], [0, 1]))
    assert "original-1009" in cached and "retrain-0-class" in cached and "shadow-1" in cached
    split = jobs.split_of(options, "class", 1)
    assert isinstance(split, Split) and split.classes == [1]
    assert jobs.split_of(options, "random10", 1) == random_split(jobs.data_of(options).train.y, 0.1, 1)


def test_an_interrupted_run_goes_on(results, arguments, capsys, tmp_path):
    cut = {**results, "rows": results["rows"][:-3], "search": results["search"]}
    file = tmp_path / "cut.json"
    file.write_text(json.dumps(cut))
    benchmark.main([*arguments[:-1], str(file)])
    said = capsys.readouterr().out
    assert "3/3" in said and "4/4" not in said and "retrain-0-class: in the cache" in said
    again = json.loads(file.read_text())
    without = lambda rows: sorted(  # noqa: E731
        json.dumps({k: v for k, v in r.items() if k not in ("seconds", "time")}, sort_keys=True) for r in rows
    )
    assert without(again["rows"]) == without(results["rows"])
    assert (tmp_path / "cut_retain.png").is_file() and not list(tmp_path.glob("*.tmp*"))


def test_models_come_in_the_order_in_which_rows_need_them():
    names = jobs.model_names(jobs.Options("digits", shadow_pairs=2), ["random10", "class"], [0, 1])
    assert names[:3] == ["original-0", "retrain-0-random10", "retrain-0-class"] and names[3] == "original-1009"
    assert names[6:] == ["original-1", "retrain-1-random10", "retrain-1-class", *(f"shadow-{k}" for k in range(4))]


@pytest.mark.parametrize("name", ["original-0", "retrain-0-class"])
def test_a_stopped_training_goes_on_behind_its_last_epoch(tmp_path, monkeypatch, name):
    options = jobs.Options("digits", 240, width=2, epochs=3, bf16=True, channels_last=True, cache=str(tmp_path / "a"))
    jobs.train_model(options, name)
    whole, about = jobs.load(options, name)
    parts = jobs.Options(**{**options.facts(), "cache": str(tmp_path / "b")})
    log, call = jobs.Log, jobs.Log.__call__

    def stop(self, row):
        call(self, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "__call__", stop)
    for epochs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            jobs.train_model(parts, name)
        assert len(json.loads((tmp_path / "b" / f"{name}.log.json").read_text())) == epochs
    monkeypatch.setattr(log, "__call__", call)
    assert "test accuracy" in jobs.train_model(parts, name)
    resumed, rows = jobs.load(parts, name)
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in resumed.state_dict().items())
    assert [row["epoch"] for row in rows["epochs"]] == [1, 2, 3]
    seconds = [row["seconds"] for row in rows["epochs"]]
    assert 0 < seconds[0] < seconds[1] < seconds[2] == rows["seconds"]
    assert [row["unseen"] for row in rows["epochs"]] == [row["unseen"] for row in about["epochs"]]
    assert {f.name for f in (tmp_path / "b").iterdir()} == {name}
    assert jobs.train_model(parts, name).endswith("in the cache")


def test_options_of_training_alone_name_the_cache(arguments):
    named = lambda *more: benchmark.options_of(benchmark.parse_args([*arguments, *more])).cache  # noqa: E731
    assert named() == named("--passes", "3") == named("--shadow-pairs", "2")
    assert len({named(), named("--bf16"), named("--arch", "vgg16"), named("--epochs", "3")}) == 4


def test_the_parts_of_a_run(arguments, tmp_path, capsys, results):
    output = ["--output", str(tmp_path / "found.json"), "--until"]
    benchmark.main([*arguments, *output, "models"])
    assert "goes on" in capsys.readouterr().out and not (tmp_path / "found.json").exists()


def test_a_method_that_diverges_is_a_failed_row_not_a_crash(results, arguments):
    options = benchmark.options_of(benchmark.parse_args(arguments))
    row = jobs.run_row(options, benchmark.job("forget", "class", "GA", 0, {"lr": 1e30, "batchnorm": "eval"}))
    assert "failed" in row and "UA" not in row
    assert report.condense([row]) == {"seeds": 0, "failed": 1, "hyper": row["hyper"], "gaps": {}}
    assert "failed" in benchmark.line(row)
    assert benchmark.choose([row], ["class"], ["GA"]) == {}


def test_absent_data_are_said(tmp_path, capsys):
    benchmark.main(["--data", str(tmp_path), "--output", str(tmp_path / "x.json")])
    assert "skipped: no train.parquet" in capsys.readouterr().out and not (tmp_path / "x.json").exists()


def test_pictures_come_from_parquet_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from PIL import Image
    from pyarrow import parquet

    for name, count in (("train", 60), ("test", 30)):
        rows = []
        for k in range(count):
            file = io.BytesIO()
            Image.new("RGB", (4, 4), (k, 2 * k, 0)).save(file, "png")
            rows.append({"bytes": file.getvalue(), "path": None})
        parquet.write_table(
            pyarrow.table({"img": rows, "label": [k % 10 for k in range(count)]}), tmp_path / f"{name}.parquet"
        )
    options = jobs.Options(str(tmp_path), subset=40, cache=str(tmp_path / "cache"))
    data = jobs.data_of(options)
    assert (len(data.train) + len(data.held_out), len(data.test)) == (40, 20) and len(data.classes) == 10
    pixels = torch.cat([data.train.x, data.held_out.x])
    labels = torch.cat([data.train.y, data.held_out.y])
    assert torch.equal(pixels[:, 0, 0, 0].long() % 10, labels) and torch.equal(
        pixels[:, 1, 0, 0], 2 * pixels[:, 0, 0, 0]
    )
    again = jobs.data_of(
        jobs.Options(str(tmp_path), subset=40, width=3, cache=str(tmp_path / "cache"))
    )  # from the cache
    assert torch.equal(again.train.x, data.train.x)


# --- report ------------------------------------------------------------------------------------------------------


def cell(*gaps: float) -> dict:
    rows = [{"seed": k, "gap": g, "hyper": {}} for k, g in enumerate(gaps)]
    return report.condense(rows)


def test_the_verdict_names_winner_place_and_chance():
    methods = {"Original": cell(4, 4, 4), "SEMU": cell(1, 1.1, 0.9), "FT": cell(3, 3.1, 3), "GA": cell(5, 5, 5)}
    said = report.verdict(methods)
    assert "SEMU has the smallest average gap to Retrain: 1.00" in said and "clear of the next other method, FT" in said
    assert "Doing nothing has 4.00; no better: GA." in said
    methods["FT"], methods["GA"] = cell(0.9, 0.8, 1.0), cell(3, 3, 3)
    said = report.verdict(methods)
    assert "FT has the smallest" in said and "SEMU, is number 2 of 3 (1.00), within chance of the best" in said
    assert "every method is better" in said
    methods["FT"] = cell(0.1, 0.2, 0.0)
    assert "and the difference is clear" in report.verdict(methods)
    methods["FT"] = cell(1.0, 1.2, 0.95)
    assert "not clear of chance against the next other method, FT" in report.verdict(methods)


def test_the_page_holds_both_tables_their_numbers_and_pictures(results, arguments, tmp_path):
    out = tmp_path / "docs" / "classification.md"
    report.main(["--results", arguments[-1], "--output", str(out)])
    text = out.read_text()
    assert "## Retain data allowed" in text and "## Forget set only" in text and "### one class" in text
    assert "Not in the second table, as they need the remaining data: FT." in text
    for table, settings in results["tables"].items():
        assert (out.parent / "images" / f"classification_{table}.png").stat().st_size > 1000
        for methods in settings.values():
            assert report.table(methods) in text and report.verdict(methods) in text
    mean = results["tables"]["forget"]["class"]["SEMU"]["gap"][0]
    assert f"{mean:.2f}" in text and results["command"] in text


def test_numbers_in_print_stand_beside_all_of_cifar10_alone(results):
    whole = json.loads(json.dumps(results))
    for table in whole["tables"].values():
        table["random10"] = table["class"]
    assert "In print" not in report.page(whole, [])
    whole["options"] |= {"data": "cifar10", "subset": None, "arch": "vgg16", "bf16": True}
    text = report.page(whole, [])
    assert text.count("In print (SalUn, arXiv 2310.12508, table 1)") == 1
    assert "VGG-16 with BatchNorm of width" in text and "in bfloat16" in text
    retrain = report.IN_PRINT["random10"]["Retrain"]
    for rows in report.IN_PRINT.values():
        for row in rows.values():  # the printed gaps are the means of the printed differences
            own = next(r for r in rows.values() if r[4] == 0)
            assert sum(abs(a - b) for a, b in zip(row[:4], own[:4])) / 4 == pytest.approx(
                row[4], abs=0.016
            )  # of rounded numbers
    assert f"| Retrain | {retrain[0]:.2f} | 100.00 |" in text


def test_no_page_without_numbers(tmp_path, results):
    for content in (None, {**results, "rows": []}):
        file = tmp_path / "none.json"
        if content:
            file.write_text(json.dumps(content))
        with pytest.raises(SystemExit):
            report.main(["--results", str(file), "--output", str(tmp_path / "page.md")])
        assert not (tmp_path / "page.md").exists()
