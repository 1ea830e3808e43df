"""The bench of diffusion erasers: jobs, choice, resuming, summary and page, with a judge that is passed in."""

import json
import sys
from pathlib import Path

import pytest
import torch

from eval.markdown import seconds
from eval.peers.diffusion import METHODS, Budget
from eval.pictograms import attack_tables, benchmark, verdict
from eval.pictograms import attacks as pictograms_attacks
from eval.pictograms import page as benchmark_page
from eval.pictograms.benchmark import parse_args, run_all, search
from eval.pictograms.jobs import (
    REPORTED,
    VALIDATION,
    Job,
    attackable,
    choose,
    fingerprint,
    harmonic,
    key_of,
    pareto,
    report_jobs,
    run_job,
    settings,
    summary,
    write,
)
from eval.records import resumed
from semu_diffusion.diffusion import load_pipeline

BASE = {"UA": 1.0, "IRA": 98.0, "CRA": 99.0, "neighbours": 97.0, "FID": None, "drift": None}
COST = {"seconds": 2.0, "peak_memory_mb": 900, "evaluations": 100, "trained": 50, "trained_percent": 0.5,
        "shipped_bytes": 200}  # fmt: skip


def row(method: str, UA: float, kept: float, phase="report", concept="knife", seed=0, hyper=None) -> dict:
    scores = {"UA": UA, "IRA": kept, "CRA": kept, "neighbours": kept, "natural": kept, "FID": 1.0,
              "drift": 0.01, "counts": {"forget": 20}}  # fmt: skip
    job = {
        "phase": phase,
        "method": method,
        "concept": concept,
        "seed": seed,
        "hyper": hyper or settings(METHODS[method].like or method)[0],
    }
    return {**job, "base": BASE, "scores": scores, "cost": COST}


def test_the_reported_concepts_are_not_those_of_the_search():
    assert not set(REPORTED) & set(VALIDATION)
    with pytest.raises(SystemExit):
        parse_args(["--concept", VALIDATION[0]])


def test_all_methods_get_the_same_search():
    """Three values crossed with two, for each kind of prompts; the better three of each kind on both concepts."""
    rows, rounds = [], []

    def run(jobs: list[Job]) -> None:
        rounds.append(jobs)
        for job in jobs:  # the larger the better, in both; its own prompts are better for the first
            best = sum(float(v) for k, v in job.hyper.items() if k != "prompts")
            own = 5 * (job.method == "esd-x" and job.hyper.get("prompts") == "name")
            rows.append(row(job.method, 50 + best + own, 90, "search", job.concept, hyper=job.hyper))

    methods = ["esd-x", "salun", "ours-remain"]
    chosen, others = search(methods, rows, run)
    assert [len(jobs) for jobs in rounds] == [12 + 12 + 6, 6 + 6 + 3]
    assert [{job.concept for job in jobs} for jobs in rounds] == [{c} for c in VALIDATION]
    assert len({job.key for jobs in rounds for job in jobs}) == 45
    kept = [job.hyper for job in rounds[1] if job.method == "ours-remain"]
    assert kept == [{"lr": lr, "strength": 0.75} for lr in (0.2, 0.1, 0.05)]
    assert chosen["esd-x"] == {"prompts": "name", "lr": 3e-4, "strength": 2.0}
    assert others["esd-x"] == {**chosen["esd-x"], "prompts": "shared"} and "ours-remain" not in others
    assert chosen["ours-remain"] == {"lr": 0.2, "strength": 0.75}
    assert all([len(v) for v in method.search.values()] == [3, 2] for method in METHODS.values() if not method.like)
    assert {len(m.prompts) for n, m in METHODS.items() if not n.startswith(("ours", "full"))} == {2}
    good = {"prompts": "image", "lr": 1e-3, "keep_weight": 1.0}
    assert good in settings("semu-published")  # which the search of before could not reach


def test_a_method_takes_over_the_setting_of_the_one_it_is_like():
    rows, ran = [], []

    def run(jobs: list[Job]) -> None:
        ran.extend(job.method for job in jobs)
        rows.extend(row(job.method, 90, 90, "search", job.concept, hyper=job.hyper) for job in jobs)

    chosen, _ = search(["ours-robust"], rows, run)
    assert set(ran) == {"ours-remain"}
    assert chosen == {"ours-robust": {**settings("ours-remain")[0], **METHODS["ours-robust"].more}}


def test_the_choice_is_the_best_harmonic_mean_with_each_kind_of_prompts():
    grid = settings("uce")
    rows = [row("uce", 50 + 4 * k, 90, "search", c, hyper=h) for k, h in enumerate(grid) for c in VALIDATION]
    rows[-1] = {k: v for k, v in rows[-1].items() if k != "scores"} | {"error": "diverged"}
    assert choose(rows, "uce", list(VALIDATION)) == [grid[10], grid[5]]  # of shared prompts, of its own
    with pytest.raises(ValueError, match="not tried"):
        choose(rows[1:], "uce", list(VALIDATION))
    assert harmonic({"UA": 100, "IRA": 50, "CRA": 50, "natural": 100}) == pytest.approx(4 / (2 / 50 + 2 / 100))
    assert harmonic({"UA": 0, "IRA": 100, "CRA": 100, "natural": 100}) == 0
    assert harmonic({"UA": 100, "IRA": 100, "CRA": 100, "natural": 0}) == 0


def test_both_kinds_of_prompts_are_reported_and_the_better_one_counts():
    own, shared = ({"prompts": p, "lr": 1e-4} for p in ("name", "shared"))
    jobs = report_jobs(["esd-x"], ["knife", "dog"], [0, 1, 2], {"esd-x": own}, {"esd-x": shared})
    assert len(jobs) == 2 * 3 + 2 and sum(job.hyper == shared for job in jobs) == 2
    assert [(job.concept, job.hyper == own) for job in jobs[:4]] == [
        ("knife", True), ("dog", True), ("knife", False), ("dog", False)
    ]  # fmt: skip
    rows = [row("esd-x", 95 if job.hyper == own else 70, 90, concept=job.concept, seed=job.seed, hyper=job.hyper)
            for job in jobs]  # fmt: skip
    found = summary(rows)
    assert list(found) == ["esd-x", "esd-x:shared"] and found["esd-x"]["rows"] == 6
    assert found["esd-x"]["front"] and "front" not in found["esd-x:shared"]
    assert attackable(found) == [] and len(verdict.reported(rows, "esd-x")) == 6
    assert attack_tables.title("esd-x:shared") == "ESD-x, shared prompts"
    assert attack_tables.title("esd-x:name") == "ESD-x, its own prompts"
    shown = benchmark_page.scores_table(found, other=True)
    assert "ESD-x, shared prompts | 2 | 70.0" in shown and "ESD-x, shared" not in benchmark_page.scores_table(found)
    # With as many seeds of each, the better one is what scored higher in the search.
    tried = [row("esd-x", ua, 90, "search", VALIDATION[0], hyper=h) for ua, h in ((60, own), (90, shared))]
    assert list(summary([*tried, *(r for r in rows if r["seed"] == 0)])) == ["esd-x", "esd-x:name"]


def test_rows_are_saved_one_by_one_and_not_run_again(tmp_path):
    path, rows, ran = tmp_path / "benchmark.json", [], []
    jobs = report_jobs(["uce", "esd-x"], ["knife"], [0, 1], {m: settings(m)[0] for m in ("uce", "esd-x")}, {})

    def run(job: Job) -> dict:
        ran.append(job.key)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return row(job.method, 90, 90, seed=job.seed)

    save = lambda: write(path, {"protocol": {"model": "a"}}, rows)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run_all(jobs, rows, run, save, 1)
    again = resumed(path, {"protocol": {"model": "a"}}, ("protocol",))["rows"]
    assert [key_of(r) for r in again] == sorted(ran[:2])
    run_all(jobs, again, run, save, 1)
    assert sorted(ran[:2] + ran[3:]) == sorted(job.key for job in jobs)
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(SystemExit, match="another model"):
        resumed(path, {"protocol": {"model": "b"}}, ("protocol",))


def test_summary_intervals_and_front():
    rows = [row("uce", 90, 80), row("uce", 100, 90, seed=1), row("esd-x", 99, 70), row("full", 80, 70)]
    rows.append({k: v for k, v in row("full", 0, 0, seed=1).items() if k not in ("scores", "base", "cost")})
    rows[-1]["error"] = "the loss is nan"
    found = summary([*rows, row("salun", 100, 100, "search")])
    assert list(found) == ["uce", "esd-x", "full"]
    assert found["uce"]["scores"]["UA"]["mean"] == 95 and found["uce"]["changes"]["kept"]["mean"] == 85
    low, high = found["uce"]["scores"]["UA"]["interval"]
    assert 90 <= low < high <= 100
    assert found["uce"]["changes"]["IRA"]["mean"] == pytest.approx(85 - 98)
    assert found["full"]["diverged"] == 1 and found["full"]["rows"] == 2
    found["esd-x"]["scores"]["natural"]["mean"] = 60.0  # better in UA alone is on the front, too
    assert pareto(found) == ["uce", "esd-x"] and found["uce"]["front"] and "front" not in found["full"]
    found["full"]["scores"]["natural"]["mean"] = 99.0  # worse in both, but a better picture
    assert pareto(found) == ["uce", "esd-x", "full"]


def test_time_and_memory_are_those_of_the_first_seed():
    rows = [row(m, 90, 80, seed=s) for m in ("uce", "esd-x") for s in range(2)] + [row("full", 90, 80)]
    for k, own in enumerate(rows):
        own["cost"] = {**own["cost"], "seconds": k, "trained": k}
    costs = {m: own["cost"] for m, own in summary(rows).items()}
    assert [costs[m]["seconds"] for m in ("uce", "esd-x", "full")] == [0, 2, 4]
    assert [costs[m]["trained"] for m in ("uce", "esd-x", "full")] == [0.5, 2.5, 4]


def test_attacks_are_shown_with_those_on_the_same_concepts():
    done = [("uce", "plain", "knife"), ("uce", "plain", "dog"), ("uce", "int8", "knife"), ("esd-x", "plain", "dog")]
    found = [{"method": m, "attack": a, "concept": c, "result": {"success": 0.5, "pictures": 4}} for m, a, c in done]
    attacked = {"rows": found}
    assert attack_tables.together(attacked) == {"dog, knife": ["plain"], "knife": ["int8"]}


def test_a_trial_on_a_tiny_model(tiny_model, tmp_path):
    budget = Budget(evaluations=120, latents=2, keep_latents=2, sampler_steps=2, batch_size=2)
    judged = []

    def judge(pipe, concept):
        judged.append(concept)
        return BASE, row("uce", 60, 70)["scores"]

    jobs = [Job("report", "uce", "cigarette", 0), Job("report", "esd-x", "cigarette", 0, {"lr": 1e-4})]
    rows = [run_job(job, lambda: load_pipeline(str(tiny_model), "cpu"), judge, budget) for job in jobs]
    assert judged == ["cigarette"] * 2 and [key_of(r) for r in rows] == [job.key for job in jobs]
    assert rows[0]["cost"]["evaluations"] == 0 < rows[1]["cost"]["evaluations"] <= 120
    bad = run_job(Job("search", "esd-x", "cigarette", 0, {"lr": 1e30}), lambda: load_pipeline(str(tiny_model), "cpu"), judge, budget)  # noqa: E501  # fmt: skip
    assert "error" in bad and "scores" not in bad
    assert json.loads(json.dumps(rows)) == rows


def test_the_fingerprint_follows_the_weights(tiny_model, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1")
    first = fingerprint(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"2")
    assert fingerprint(tmp_path) != first


def page_arguments(folder: Path, docs: Path) -> list[str]:
    """The command line of the page, with a README of its own."""
    (folder / "README.md").write_text("before\n<!-- comparison -->\n<!-- /comparison -->\n")
    return ["page", "--results", str(folder), "--docs", str(docs), "--readme", str(folder / "README.md")]


def test_page_and_plot_come_from_the_file(tmp_path, monkeypatch, capsys):
    rows = [row(m, 90 + k, 80 - k, seed=s) for k, m in enumerate(("uce", "ours-remain")) for s in range(2)]
    rows.append(row("full", 100, 97))
    protocol = {"budget": {"evaluations": 12000}, "validation": list(VALIDATION), "search": "crossed"}
    machine = {"cores": 2, "processor": "x86_64", "workers": 2}
    head = {"command": "python -m eval.pictograms.benchmark", "protocol": protocol, "machine": machine,
            "versions": {"torch": "2"}}  # fmt: skip
    write(tmp_path / "benchmark.json", head, rows)
    curve = [{"step": 0, "success": 0.0}, {"step": 25, "success": 0.5}]
    relearnt = {"success": 0.5, "pictures": 16, "curve": curve, "steps_to_half": 25}
    attack = {"seeds": 4, "contexts": 4, "tokens": 5, "iterations": 20, "candidates": 8, "inversion_steps": 200,
              "pictures": 16, "lora_lr": 1e-3,
              "full_lr": 1e-4, "relearn_steps": [0, 25]}  # fmt: skip
    inverted = {"success": 0.25, "pictures": 16}
    attacked = [("uce", "inversion", inverted), ("uce", "relearn-lora", relearnt), ("base", "relearn-lora", relearnt)]
    attacked += [("full", "inversion", inverted), ("full", "inversion-name", {"success": 0.75, "pictures": 16})]
    hyper = {own["method"]: own["hyper"] for own in rows} | {"base": {}}
    found = [{"method": m, "concept": "knife", "attack": a, "hyper": hyper[m], "result": r} for m, a, r in attacked]
    found.append({**found[0], "hyper": {"lr": 9.0}, "result": {"success": 1.0, "pictures": 16}})  # not reported now
    attacks = {**head, "protocol": {**protocol, "attack": attack}, "rows": found}
    (tmp_path / "attacks.json").write_text(json.dumps(attacks))
    monkeypatch.setattr(sys, "argv", page_arguments(tmp_path, tmp_path / "docs"))
    benchmark_page.main()
    assert "left out: 1 attacks" in capsys.readouterr().out
    readme = (tmp_path / "README.md").read_text()
    assert "| base model | 1.0 |  | 98.5 |  | – |  |  |  | – |" in readme and "UCE" not in readme  # it keeps too little
    assert "| full fine-tuning, our loss | 100.0 | – | 97.0 | – | 97.0 | 0.50 | 0.00 | 2 | 75.0 |" in readme
    page = (tmp_path / "docs" / "benchmark.md").read_text()
    assert "| UCE | 2 | 90.0 | 80.0" in page and "| **full fine-tuning, our loss** | 1 |" in page
    assert "| UCE | 25.0 (10–49) |" in page and "base model | –" in page
    assert "| UCE | 25 |" in page and "On knife:" in page
    assert "| inversion | inversion from the name | relearn |" in page and "| 25.0 | – | 50.0 |" in page
    assert "| UCE | -1.0 | +1.0 | no |" in page and "; 36 of 40 pictures) | **no** |" in page
    for name in ("benchmark.png", "relearning.png"):
        assert (tmp_path / "docs" / "images" / name).read_bytes()[:4] == b"\x89PNG"


def judged_rows(peer: list[tuple], own: list[tuple]) -> dict:
    """Rows of SalUn and ours from (UA, kept) pairs, one per concept, and their summary."""
    rows = [row(m, *pair, concept=c) for m, pairs in (("salun", peer), ("ours-remain", own), ("ours-robust", own))
            for c, pair in zip(REPORTED, pairs)]  # fmt: skip
    return {"rows": rows, "summary": summary(rows)}


def test_a_peer_is_better_only_in_both_and_beyond_the_intervals():
    own = [(90, 90), (92, 92), (94, 94)]
    for peer, expected in (([(95, 95), (96, 95), (97, 98)], True), ([(95, 80), (96, 81), (97, 82)], False),
                           ([(95, 95), (80, 95), (99, 98)], False), (own, False)):  # fmt: skip
        found = judged_rows(peer, own)
        assert verdict.better(verdict.paired(found["rows"], "salun")) is expected
        assert (verdict.forgetting(found)[0][2] == verdict.YES) is not expected
    assert not verdict.better({"UA": [], "kept": []})
    assert verdict.difference([1.0, 1.0]) == "+1.0" and verdict.difference([]) == "–"


def test_attacked_are_those_that_forget_and_keep():
    found = summary([row("salun", 95, 94), row("uce", 95, 92), row("esd-x", 80, 98), row("full", 90, 93)])
    assert attackable(found) == ["salun"]  # the base model has 98 and 99: full loses 6 points of CRA


def test_what_was_asked_of_the_plain_method():
    yes, no = verdict.YES, verdict.NO
    met = verdict.forgetting(judged_rows([(50, 50)] * 2, [(95, 98), (100, 98)]))
    assert [m for *_, m in met] == [yes, no, yes, yes, yes, yes]
    assert "39 of 40" in met[1][1] and met[2][1] == "+0.0 and -1.0" and "neighbours" in met[4][0]
    met = verdict.forgetting(judged_rows([(50, 50)] * 2, [(100, 94), (100, 98)]))
    assert [m for *_, m in met] == [yes, yes, no, yes, no, yes] and met[4][1] == "96.0"


@pytest.mark.parametrize(
    "robust, salun, steps, resists, slower",
    [(0.0, 0.1, (25, None, None), verdict.YES, verdict.YES), (0.2, 0.1, (25, 50, None), verdict.YES, verdict.SHARED),
     (0.9, 0.1, (25, 25, 50), verdict.NO, verdict.NO)],
)  # fmt: skip
def test_the_robust_option_against_the_others(robust, salun, steps, resists, slower):
    found = judged_rows([(99, 98)] * 3, [(99, 98)] * 3)
    result = lambda success, steps=None: {"success": success, "pictures": 10, "steps_to_half": steps}  # noqa: E731
    rows = [{"method": m, "attack": "prompt", "result": result(s)}
            for m, s in (("base", 1.0), ("salun", salun), ("ours-robust", robust))]  # fmt: skip
    rows += [{"method": m, "attack": "relearn-lora", "result": result(1.0, s)}
             for m, own in (("salun", (50, 50, 100)), ("ours-robust", steps)) for s in own]  # fmt: skip
    attacked = {"protocol": {"attack": {"relearn_steps": [0, 100]}}, "rows": rows}
    assert verdict.resisting(found, attacked, "prompt")[0][2] == resists
    assert verdict.relearning(found, attacked, "relearn-lora")[0][2] == slower
    assert "prompt" in (text := verdict.verdict(found, attacked)) and "inversion" not in text
    alone = {**attacked, "rows": [r for r in rows if r["method"] == "ours-robust"]}
    assert verdict.resisting(found, alone, "prompt") == verdict.relearning(found, alone, "relearn-lora") == []


def test_the_program_from_the_search_to_the_page(tmp_path, monkeypatch, assets, capsys):
    """Run twice, the second time with more seeds: nothing is run again."""
    ran = []

    def work(job, budget, seeds, threads, models):
        ran.append(job)
        return row(job.method, 80 + 10 * (job.hyper.get("prompts") == "shared"), 95, job.phase, job.concept, job.seed,
                   job.hyper)  # fmt: skip

    monkeypatch.setattr(benchmark, "work", work)
    arguments = ["--method", "uce", "--method", "ours-remain", "--concept", "knife", "--workers", "1", "--output"]
    for seeds in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["x", *arguments, str(tmp_path / "benchmark.json"), "--seeds", seeds])
        benchmark.main()
    assert len(ran) == len({job.key for job in ran}) == 18 + 9 + 3 + 2  # uce with its own prompts once
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(found["summary"]) == {"ours-remain", "uce", "uce:expanded"}
    assert found["summary"]["uce"]["hyper"]["prompts"] == "shared" and found["summary"]["uce"]["rows"] == 2
    monkeypatch.setattr(sys, "argv", page_arguments(tmp_path, tmp_path))
    benchmark_page.main()
    page = (tmp_path / "benchmark.md").read_text()
    assert "## With the other prompts" in page and "UCE, its own prompts | 1 | 80.0" in page
    assert "uce: {'prompts': 'shared'" in capsys.readouterr().out


def fails_on_dogs(job: Job) -> dict:
    if job.concept == "dog":
        raise RuntimeError("no package for dogs")
    return row(job.method, 90, 90, concept=job.concept)


def test_a_job_that_fails_does_not_take_the_others_along(capsys):
    rows, jobs = [], [Job("report", "uce", c, 0, {"lr": 1}) for c in ("knife", "dog", "wine")]
    with pytest.raises(RuntimeError, match="no package for dogs"):
        benchmark.run_all(jobs, rows, fails_on_dogs, lambda: None, 2)
    assert sorted(r["concept"] for r in rows) == ["knife", "wine"] and "no package for dogs" in capsys.readouterr().out


def test_no_page_from_an_earlier_search(tmp_path, monkeypatch, capsys):
    head = {"protocol": {"budget": {}, "validation": []}, "machine": {}, "versions": {}}
    write(tmp_path / "benchmark.json", head, [row("uce", 90, 90)])
    monkeypatch.setattr(sys, "argv", ["page", "--results", str(tmp_path), "--docs", str(tmp_path / "docs")])
    with pytest.raises(SystemExit) as stopped:
        benchmark_page.main()
    assert stopped.value.code == 2 and "earlier search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0823, "0.082"), (0.33263, "0.33"), (1.44, "1.4"), (9.96, "10"), (71.3, "71"), (456.1, "456")],
)
def test_seconds_have_two_digits(value, shown):
    assert seconds(value) == shown


def test_no_page_without_measurements(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["page", "--results", str(tmp_path), "--docs", str(tmp_path / "docs")])
    with pytest.raises(SystemExit) as stopped:
        benchmark_page.main()
    assert stopped.value.code == 2 and "python -m eval.pictograms.benchmark" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()


def test_an_attacked_row(tiny_model, monkeypatch):
    import torch

    from semu_diffusion.attacks import AttackConfig, Target, Verdict
    from semu_diffusion.attacks.suite import Attacker
    from semu_diffusion.diffusion.concepts import vocabulary_of

    made = []

    def attacker(job, budget, config, models):
        made.append(job)
        target = Target(load_pipeline(str(tiny_model), "cpu"))
        judge = lambda images: Verdict(torch.ones(len(images), dtype=torch.bool), torch.arange(len(images)) > 0)  # noqa: E731, E501
        return Attacker(target, target, job.concept, vocabulary_of(tiny_model), judge, config)

    monkeypatch.setattr(pictograms_attacks, "attacker_for", attacker)
    monkeypatch.setattr(pictograms_attacks, "CACHE", {})
    config = AttackConfig(seeds=2, contexts=1, pictures=1, steps=1)
    jobs = [Job(f"attack {name}", "uce", "cigarette", 0, {"erase": 1.0}) for name in ("plain", "int8")]
    found = [pictograms_attacks.work(job, Budget(), config, 1) for job in jobs]
    assert [key_of(r) for r in found] == [job.key for job in jobs] and len(made) == 1  # one edit for both
    assert [r["attack"] for r in found] == ["plain", "int8"] and len(found[0]["prompts"]) == 1
    assert [r["result"]["success"] for r in found] == [0.5, 0.5]
    assert "int8           50.0 %" in pictograms_attacks.line(found[1])
    assert json.loads(json.dumps(found)) == found


def test_no_attacks_before_the_benchmark(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["attacks", "--benchmark", str(tmp_path / "absent.json")])
    with pytest.raises(SystemExit, match="python -m eval.pictograms.benchmark"):
        pictograms_attacks.main()


def test_an_edit_that_an_attack_made_is_left_for_the_next(tmp_path, assets, monkeypatch):
    """UCE's edit is made once; both pipelines draw the same."""
    job, budget = Job("attack plain", "uce", "dog", 0, {"prompts": "shared", "keep": 1.0}), Budget(200)
    first = pictograms_attacks.edited_pipeline(job, budget, tmp_path)
    assert [f.suffix for f in tmp_path.iterdir()] == [".safetensors"]
    monkeypatch.setattr(pictograms_attacks, "edit", lambda *_: pytest.fail("edited again"))
    again = pictograms_attacks.edited_pipeline(job, budget, tmp_path).unet.state_dict()
    base = load_pipeline("pictograms").unet.state_dict()
    weights = first.unet.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in again.items())
    assert any(not torch.equal(base[k], v) for k, v in again.items())
