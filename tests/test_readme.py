"""The README's figures and those of docs/results.md are those of the results files."""

import json

from pages import PAGES, ROOT

from eval.classification.report import OURS, ranked
from eval.peers.diffusion import ROBUST
from eval.pictograms import attack_tables, verdict
from eval.pictograms.attack_tables import BASE, pooled
from eval.pictograms.attack_tables import results as attacked_by
from eval.pictograms.jobs import attackable
from eval.pictograms.page import ordered
from eval.tables import seconds

README, PAGE = PAGES["README.md"], PAGES["docs/results.md"]


def words_of(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def test_figures_are_those_of_the_results_files():
    results = ROOT / "eval" / "results"
    files = ("demo.json", "pictograms.json", "many.json")
    demo, all_, many = (json.loads((results / name).read_text()) for name in files)
    words, total = words_of(PAGE), all_["summary"]
    base, erased, training = demo["evaluation"]["base"], demo["evaluation"]["erased"], demo["training"]
    for text in (words, words_of(README)):
        assert f"recognised in {100 - erased['UA']:.0f} % of its pictures instead of {100 - base['UA']:.0f} %" in text
        assert f"the other objects in {erased['IRA']:.1f} % instead of {base['IRA']:.1f} %" in text
        assert f"the styles in {erased['CRA']:.1f} % instead of {base['CRA']:.1f} %" in text
        trained = f"{training['trained_percent']:.2f} % of the UNet's weights trained in {training['seconds']:.0f} s"
        assert trained in text
    row = lambda side: " | ".join(f"{total[side][k]:.1f}" for k in ("UA", "IRA", "CRA"))  # noqa: E731
    assert f"| base model | {row('base')} | |" in words
    assert f"| erased | {row('erased')} | ≤ {total['trained_percent']:.2f} % |" in words
    rows = [row["erased"] for row in all_["rows"]]
    (worst,) = (row["concept"] for row in all_["rows"] if row["erased"]["UA"] < 100)
    assert f"UA is 100 for all but {worst} ({total['worst_UA'][1]:.1f})." in words
    natural = f"a proper picture in {total['erased']['natural']:.1f} % (the base model's own pictures: "
    assert natural + f"{total['base']['natural']:.1f} %)" in words
    least = min(row["neighbours"] for row in rows if row.get("neighbours") is not None)
    assert f"stay at {total['erased']['neighbours']:.1f} % (at the least {least:.1f}, for" in words
    at_once = {way: own["16"] for way, own in many["summary"]["table"].items()}
    said = lambda way: f"{at_once[way]['UA']:.1f} % at {at_once[way]['IRA_change']:+.1f} points"  # noqa: E731
    lost = f"forget {at_once['stack']['UA']:.1f} % but ruin the other objects (IRA {at_once['stack']['IRA_change']:.1f}"
    assert lost in words and f"they forget {said('fuse')}." in words and f"UCE forgets {said('uce')}" in words
    (row,) = (row for row in many["rows"] if (row["count"], row["way"]) == (16, "joint"))
    after = f"after {row['training']['seconds']:.0f} s of training"
    assert f"forgets {said('joint')} {after}" in words and not many["joint_options"]


def test_costs_are_those_of_the_results_file():
    scale = json.loads((ROOT / "eval" / "results" / "scale.json").read_text())
    words, svd, step = words_of(PAGE), scale["svd"], scale["step"]["semu_over"]
    for kind in ("decaying", "random"):
        times = [f"{1 / svd[kind]['semu_over'][way]['median']:.0f} times" for way in ("exact", "published")]
        assert f"{svd[kind]['seconds']['semu']['median']:.0f} s on {kind} gradients" in words
        assert f"{times[0]} quicker than exact SVDs and {times[1]} quicker than the published procedure" in words
    ways = (("lora", "a LoRA of the same ranks"), ("full", "full fine-tuning"), ("published", "the published forward"))
    for way, name in ways:
        assert f"{step[way]['median']:.2f} of {name}" in words
    over = scale["inference"]["over"]
    merged, again = (over[way]["base"]["median"] for way in ("semu merged", "base again"))
    assert f"A forward pass takes {over['semu']['lora']['median']:.2f} of that LoRA's" in words
    assert f"({merged:.2f}, where the base measured twice differs by {again:.2f})" in words
    assert f"{scale['cli']['peak_memory_mb'] / 1000:.1f} GB" in words


def test_classifier_gaps_are_those_of_the_results_file():
    results = json.loads((ROOT / "eval" / "results" / "classification.json").read_text())
    shown = {"random10": "random 10 %", "random50": "random 50 %", "class": "one class"}
    assert results["command"] in PAGE and f"{len(results['seeds'])} seeds" in PAGE
    for setting, title in shown.items():
        cells = []
        for name in ("forget", "retain"):
            methods = results["tables"][name][setting]
            for ours in (True, False):
                best = next(m for m in ranked(methods) if (m in OURS) == ours)
                cells.append(f"{methods[best]['gap'][0]:.2f} ({best})")
        assert f"| {title} | {' | '.join(cells)} |" in PAGE


RESISTED = verdict.RESISTED
DOUBTED = ("esd-x", "esd-u", "semu-published")  # rows of an earlier protocol that is unfair to these
COMPARED = [json.loads((ROOT / "eval" / "results" / name).read_text()) for name in ("benchmark.json", "attacks.json")]


def again(method: str, attack: str) -> float:
    """Share of pictures that show the concept again, in percent."""
    return pooled(attacked_by(COMPARED[1], method, attack))[0]


def compared_row(name: str, own: dict) -> str:
    """A method's line of the README's comparison, made from the results files."""
    cost = own["cost"]
    scores = [own["scores"]["UA"]["mean"], own["changes"]["kept"]["mean"], own["scores"]["context"]["mean"]]
    cells = [f"{v:.1f}" for v in scores] + [f"{cost['trained_percent']:.2f} %", seconds(cost["seconds"])]
    return f"| {attack_tables.title(name)} | {' | '.join([*cells, *(f'{again(name, a):.1f}' for a in RESISTED)])} |"


def test_the_comparison_is_that_of_the_results_files():
    bench, attacks = COMPARED
    summary, words = bench["summary"], words_of(README)
    good = [(m, own) for m, own in ordered(summary) if m in attackable(summary)]
    shown = [compared_row(m, own) for m, own in good]
    assert all(len(attacked_by(attacks, m, a)) == 3 for m, _ in good for a in RESISTED)
    assert "\n".join(shown) in README and "Eleven others" in README and len(verdict.peers(summary)) == 11
    bases = [(row["base"]["IRA"] + row["base"]["CRA"]) / 2 for row in verdict.reported(bench["rows"], "ours-remain")]
    base = [f"{again(BASE, a):.1f}" for a in RESISTED]
    assert f"| base model | | {sum(bases) / len(bases):.1f} | | | | {' | '.join(base)} |" in README
    assert all(own["rows"] == 12 for own in summary.values()) and "Four concepts" in words and "three seeds" in words
    assert bench["command"] in PAGE and attacks["command"].split(" --")[0] in PAGE


def test_what_is_said_of_ours_and_others_is_so():
    bench, attacks = COMPARED
    summary, words = bench["summary"], words_of(PAGE)
    assert not any(verdict.better(verdict.paired(bench["rows"], peer)) for peer in verdict.peers(summary))
    robust, plain, sfron = (summary[m] for m in ("ours-robust", "ours-remain", "sfr-on"))
    hits = verdict.gone(verdict.reported(bench["rows"], "ours-remain"))[1].split("; ")[1].removesuffix(" pictures)")
    lost = [-plain["changes"][k]["mean"] for k in ("IRA", "CRA")]
    assert f"it forgets {hits} pictures, and IRA and CRA fall by {lost[0]:.1f} and {lost[1]:.1f} points" in words
    kept = {m: own["changes"]["kept"]["mean"] for m, own in summary.items() if m in attackable(summary)}
    assert {m for m in kept if kept[m] > kept["ours-remain"]} == {"uce", "sfr-on"}
    assert max(kept.values()) - kept["ours-remain"] < 0.3 and "UCE and SFR-on keep up to 0.3 points more" in words
    assert sfron["scores"]["UA"]["mean"] == 100 and "SFR-on forgets all" in words
    assert sfron["scores"]["context"]["mean"] < 20 < 97 < robust["scores"]["context"]["mean"]
    withstand = {m for m in attackable(summary) if not any(again(m, a) for a in RESISTED)}
    assert withstand == {"ours-robust", "salun", "full", "ours-remain-free"}
    assert max(kept["full"], kept["ours-remain-free"]) < min(kept["ours-robust"], kept["salun"])
    assert all(len(attacked_by(attacks, "ours-robust", a)) == 3 for a in RESISTED) and "of the 288 pictures" in words
    times = robust["cost"]["seconds"] / plain["cost"]["seconds"]
    assert f"IRA falls by {-robust['changes']['IRA']['mean']:.1f} points, for {times:.1f} times the time" in words
    assert " ".join(f"--{k} {v:g}" for k, v in ROBUST.items()) in words


def test_nothing_is_said_of_relearning_that_was_not_measured():
    _, attacks = COMPARED
    relearnt = {r["method"] for r in attacks["rows"] if r["attack"] == "relearn-lora"}
    late = {m: [r["steps_to_half"] for r in attacked_by(attacks, m, "relearn-lora")] for m in relearnt}
    assert sorted(m for m, own in late.items() for k in own if k is None) == ["sfr-on"] and len(late["sfr-on"]) == 2
    assert max(k for own in late.values() for k in own if k) == 100 and len(relearnt) == 5
    said = f"after 100 steps of a LoRA on {attacks['protocol']['attack']['pictures']} pictures of it"
    assert all(said in words_of(text) for text in (README, PAGE))


def test_nothing_is_claimed_of_what_is_to_be_measured_again():
    """The rows in doubt are in no table but the benchmark's own, which marks them."""
    summary = COMPARED[0]["summary"]
    for name in DOUBTED:
        scores = [summary[name]["scores"]["UA"]["mean"], summary[name]["changes"]["kept"]["mean"]]
        assert not any(f"| {attack_tables.title(name)} |" in text for text in PAGES.values())
        assert not any(f"UA {v:.1f}" in text or f"kept {v:.1f}" in text for v in scores for text in PAGES.values())
    page = (ROOT / "docs" / "benchmark.md").read_text()
    assert page.count("†") == len(DOUBTED) + 1 and "will be measured again" in words_of(page)


def test_what_was_left_out_was_measured():
    """The refresh of the bases, in docs/method.md."""
    results = ROOT / "eval" / "results"
    refresh, captured = (json.loads((results / f"{name}.json").read_text()) for name in ("refresh", "captured"))
    words = words_of(PAGES["docs/method.md"])
    shares = [100 * row["captured"] for run in captured["runs"].values() for row in run if row["step"]]
    assert f"only {min(shares):.0f} to {max(shares):.0f} % of the later gradients' energy" in words
    rows = {way: {r["concept"]: r["erased"] for r in v["rows"]} for way, v in refresh["variants"].items()}
    guitar, photo = ([rows[way][c] for way in ("default", "one refresh")] for c in ("guitar", "photo style"))
    assert guitar[0] == guitar[1] and f"(UA {guitar[0]['UA']:.0f}, IRA {guitar[0]['IRA']:.1f} either way)" in words
    without, once = (f"UA {row['UA']:.0f} and IRA {row['IRA']:.1f}" for row in photo)
    assert f"photo style had {without} without, {once} with one refresh" in words
    assert "`eval/results/refresh.json`" in words
