"""The README's figures and those of docs/results.md are those of the results files."""

import json

from pages import PAGES, ROOT, words_of

from eval.classification.report import OURS, ranked
from eval.pictograms import attack_tables, verdict
from eval.pictograms.jobs import REPORTED, attackable
from eval.pictograms.page import compared, over_budget
from eval.pictograms.verdict import OURS as OURS_ERASER
from eval.records import read_json

README, PAGE = PAGES["README.md"], PAGES["docs/results.md"]


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


BENCH, ATTACKS, LASTING = (
    read_json(ROOT / "eval" / "results" / f"{name}.json") for name in ("benchmark", "attacks", "lasting")
)
SUMMARY = BENCH["summary"]
GOOD = attackable(SUMMARY)


def mean(method: str, key: str) -> float:
    """A method's mean score; `kept` is that of IRA and CRA."""
    own = SUMMARY[method]
    return own["changes"]["kept"]["mean"] if key == "kept" else own["scores"][key]["mean"]


def titles(methods: list[str]) -> str:
    """Their names as a sentence lists them."""
    *most, last = [attack_tables.title(m) for m in methods]
    return f"{', '.join(most)} and {last}" if most else last


def test_the_comparison_is_that_of_the_results_files():
    words = words_of(README)
    assert f"<!-- comparison -->\n\n{compared(SUMMARY, ATTACKS)}\n\n<!-- /comparison -->" in README
    assert len(verdict.peers(SUMMARY)) == 12 and "Twelve others" in words and "Twelve others" in words_of(PAGE)
    reported = [row for row in BENCH["rows"] if row["phase"] == "report"]
    concepts = [c for c in REPORTED if c in {row["concept"] for row in reported}]
    assert f"Eight concepts ({', '.join(concepts)}); three seeds for six of the methods" in words and len(concepts) == 8
    edits = sorted(own["rows"] for own in SUMMARY.values())
    assert edits == [8] * (len(edits) - 6) + [24] * 6 and {row["seed"] for row in reported} == {0, 1, 2}
    assert f"{BENCH['protocol']['budget']['evaluations']:,} samples" in words and BENCH["command"] in PAGE
    over = over_budget(BENCH)
    assert all(method.startswith("ours") for method in over)
    assert (
        f"(ours up to {over[OURS_ERASER]:,}, as choosing what to draw instead and truncating the file came on top)"
        in words
    )
    budget = BENCH["protocol"]["budget"]["evaluations"]
    assert f"went over by up to {over[OURS_ERASER] - budget:,} of {budget:,} samples" in words_of(PAGE)
    assert not any(own["diverged"] for own in SUMMARY.values())


def test_what_is_said_of_ours_and_others_is_so():
    words = words_of(PAGE)
    assert not any(verdict.better(verdict.paired(BENCH["rows"], peer)) for peer in verdict.peers(SUMMARY))
    assert "No other both forgets and keeps more than ours beyond the confidence intervals" in words
    hits = verdict.gone(verdict.reported(BENCH["rows"], OURS_ERASER))[1].split("; ")[1].removesuffix(" pictures)")
    changes = [f"{SUMMARY[OURS_ERASER]['changes'][k]['mean']:+.1f}" for k in ("IRA", "CRA")]
    assert f"it forgets {hits} pictures, and IRA and CRA change by {' and '.join(changes)} points" in words
    own = [mean(OURS_ERASER, key) for key in ("unseen", "natural")]
    assert f"In unseen wordings UA is {own[0]:.1f}, and {own[1]:.1f} % of the pictures are proper ones" in words
    rest = [m for m in verdict.peers(SUMMARY) if m in GOOD]
    above = lambda key: [m for m in rest if mean(m, key) > mean(OURS_ERASER, key)]  # noqa: E731
    assert above("UA") == [] and mean(OURS_ERASER, "UA") == 100
    assert "None of them keeps more by as much as a tenth of a point; among the best it is a matter of tenths" in words
    assert -0.1 < mean(OURS_ERASER, "kept") - max(mean(m, "kept") for m in rest) < 0.5
    shares = sorted(mean(m, "natural") for m in above("natural"))
    said = f"{titles(above('natural'))} draw proper pictures more often ({shares[0]:.1f} to {shares[-1]:.1f} %)"
    assert said in words
    cost = {m: SUMMARY[m]["cost"] for m in (*rest, OURS_ERASER)}
    smaller = [m for m in rest if cost[m]["shipped_bytes"] < cost[OURS_ERASER]["shipped_bytes"]]
    size, least = (f(cost[m]["shipped_bytes"] for m in ms) / 1e6 for f, ms in ((max, [OURS_ERASER]), (min, smaller)))
    assert f"{titles(smaller)} ship less ({least:.2f} MB and more, ours {size:.2f} MB)" in words
    trained = cost[OURS_ERASER]["trained_percent"]
    assert all(cost[m]["trained_percent"] > trained for m in rest)
    assert f"none trains fewer weights than ours ({trained:.2f} %)" in words
    ruined = [m for m in rest if mean(m, "natural") < 75]
    assert f"{titles(ruined)} forget by pictures of nothing in particular" in words
    left_out = [m for m in verdict.peers(SUMMARY) if m not in GOOD]
    assert f"{titles(left_out)} are not in the table" in words
    assert f"{titles(left_out)} are not in it" in words_of(README)


def test_nothing_is_said_of_relearning_that_was_not_measured():
    which = ("lora-4", 1e-3, 16)
    (own,) = (m["steps"] for m in LASTING["summary"]["medians"] if (m["attack"], m["rate"], m["pictures"]) == which)
    plain, lasting = (f"{own[way]:.0f}" for way in ("plain", "lasting"))
    option = f"{lasting} after `--lasting {LASTING['set']['lasting']}` (medians of four concepts"
    gains, rest = LASTING["summary"]["gains"], [m for m in verdict.peers(SUMMARY) if m in GOOD]
    ratios = {m: [own["others"][m] for own in gains] for m in rest}
    close = [m for m in rest if 1 <= min(ratios[m]) < 3]
    ends = " to ".join(f"{end(r for m in close for r in ratios[m]):.1f}" for end in (min, max))
    ahead = [m for m in rest if min(ratios[m]) < 1]
    lost = [own["attack"] for own in gains if any(own["others"][m] < 1 for m in ahead)]
    said = f"lasts {ends} times as long as {titles(close)} at the rates that are worst for it, at least three times"
    assert f"{said} as long as the others in the table but {titles(ahead)}" in words_of(PAGE)
    assert sorted(lost) == ["lora-16", "lora-4"]
    assert f"{plain} steps of a LoRA on 16 pictures bring half of the pictures back, {option}" in words_of(README)
    assert f"Half of the pictures are back after {plain} steps of a LoRA, {option}" in words_of(PAGE)


def again(method: str, attack: str) -> tuple[float, float, float]:
    """How often the concept shows again after an attack, with its interval, in percent."""
    return attack_tables.pooled(attack_tables.results(ATTACKS, method, attack))


def test_what_is_said_of_attacks_was_measured():
    words, rest = words_of(PAGE), [m for m in verdict.peers(SUMMARY) if m in GOOD]
    ours, robust = verdict.OURS, verdict.ROBUST
    both = ("inversion", "inversion-name")
    shown = lambda m: " and ".join(f"{again(m, a)[0]:.1f}" for a in both)  # noqa: E731
    assert f"brings back {shown(ours)} % of the pictures under ours, {shown(robust)} % under `--adversarial 1`" in words
    worse = [m for m in rest if all(again(m, a)[1] > again(ours, a)[2] for a in both)]
    shares = sorted(again(m, a)[0] for m in worse for a in both)
    assert f"more under {titles(worse)} ({shares[0]:.1f} to {shares[-1]:.1f} %)" in words
    prompt = " and ".join(f"{again(m, 'prompt')[0]:.1f}" for m in (ours, robust))
    assert f"An adversarial prompt brings back {prompt} %." in words
    for attack in ("prompt", *both):
        assert not any(again(m, attack)[2] < again(own, attack)[1] for m in rest for own in (ours, robust))
    lower = [m for m in rest if all(again(m, a)[0] < again(robust, a)[0] for a in both)]
    assert f"{titles(lower)} are lower within them" in words
    trained = again(ours, "relearn-lora")
    assert f"bring back {trained[0]:.1f} % of the pictures under ours" in words
    less = [m for m in rest if again(m, "relearn-lora")[2] < trained[1]]
    assert f"under {titles(less)} alone of the others ({again(less[0], 'relearn-lora')[0]:.1f} %)" in words
    back = [m for m in rest if again(m, "benign-lora")[0]]
    shares = sorted(again(m, "benign-lora")[0] for m in back)
    assert not any(again(m, "benign-lora")[0] for m in (ours, robust))
    assert f"nor under the others but {titles(back)} ({shares[0]:.1f} to {shares[-1]:.1f} %)" in words
    assert ATTACKS["command"] in PAGE


def test_what_is_said_of_the_model_of_photographs_was_checked():
    found, words = read_json(ROOT / "semu_diffusion" / "assets" / "cifar10" / "check.json"), words_of(PAGE)
    assert f"right on {found['real_accuracy']:.1f} % of {found['pictures']:,} test pictures" in words
    worst, next_ = sorted(found["classes"], key=found["classes"].get)[:2]
    least = f"least of all {worst} ({found['classes'][worst]:.1f} %) and {next_} ({found['classes'][next_]:.1f} %)"
    assert f"asked class in {found['accuracy']:.1f} % of {found['pictures']:,} drawn ones; {least}" in words
    assert f"features is {found['fid']:.2f}, that of as many test pictures {found['fid_test']:.2f}" in words


def test_rows_that_were_run_once_more_are_counted():
    found = read_json(ROOT / "eval" / "results" / "again.json")
    files = [row["file"] for row in found["rows"]]
    assert {files.count(name) for name in set(files)} == {2} and len(set(files)) == 5
    other = [row["differences"] for row in found["rows"] if row["differences"]]
    assert found["same"] == len(files) - len(other) and all(key.endswith("loss") for own in other for key in own)
    assert all(abs(old - new) < 1e-4 * old for own in other for old, new in own.values())
    assert f"commit: {found['same']} of {len(files)} came out the same to the last digit" in words_of(PAGE)


def test_more_lasting_is_what_the_files_say():
    """More rounds and more rank, in docs/method.md."""
    files = {
        n: read_json(ROOT / "eval" / "results" / f"lasting_{n}.json")["rows"] for n in ("guitar", "rank", "rounds")
    }
    way = {n: [row for row in rows if row["way"] == "lasting"] for n, rows in files.items()}
    scored = {n: next(row for row in rows if "erased" in row) for n, rows in way.items()}
    steps = {n: next(row["steps"] for row in rows if row.get("attack") == "full") for n, rows in way.items()}
    lost = {n: scored["guitar"]["erased"]["IRA"] - row["erased"]["IRA"] for n, row in scored.items()}
    words, share = (
        words_of(PAGES["docs/method.md"]),
        {n: row["training"]["trained_percent"] for n, row in scored.items()},
    )
    more = f"eight last longer, {steps['rounds']:.0f} steps of all weights instead of {steps['guitar']:.0f}"
    assert f"{more}, and cost {lost['rounds']:.1f} points of IRA" in words
    assert (
        f"{share['rank']:.2f} % trained) last no longer, {steps['rank']:.0f} steps, and cost {lost['rank']:.1f}."
        in words
    )
    assert 4.9 < share["rank"] / share["guitar"] < 5.2


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
