"""What docs/results.md says of erased classes of photographs is what the results file says."""

from pages import PAGES, ROOT, words_of

from eval.cifar10.benchmark import CHOOSING
from eval.cifar10.methods import ENTRIES
from eval.records import read_json
from semu_diffusion.diffusion.concepts.language import series

FOUND = read_json(ROOT / "eval" / "results" / "cifar10.json")
SUMMARY = FOUND["summary"]
WORDS, README = (words_of(PAGES[name]) for name in ("docs/results.md", "README.md"))
NUMBERS = {1: "one edit", 2: "two edits", 3: "three edits"}


def mean(method: str, key: str, of: str = "scores") -> float:
    return SUMMARY[method][of][key]["mean"]


def shares(method: str) -> str:
    """Forgotten and kept."""
    return f"{mean(method, 'UA'):.1f} % and {mean(method, 'IRA'):.1f} %"


def test_all_methods_have_as_many_edits():
    (edits,) = {own["rows"] / len(FOUND["concepts"]) for own in SUMMARY.values()}
    assert set(SUMMARY) == set(ENTRIES) and not any(own["diverged"] for own in SUMMARY.values())
    protocol, judge = FOUND["protocol"], FOUND["judge"]
    often = f"{series(FOUND['concepts'])}, {NUMBERS[edits]} for each class and method"
    chosen = f"settings chosen on {series(protocol['validation'])}; {protocol['pictures']} pictures a class"
    assert f"{often}, {chosen}" in WORDS and f"(`cifar10`; {often})" in README
    assert f"by `{FOUND['command']}`" in WORDS
    assert f"of width {judge['width']}, right on {judge['right']:.2f} % of the test pictures" in WORDS


def test_ours_beside_others():
    now, before = ({k: f"{mean('ours', k, of):.1f} %" for k in CHOOSING} for of in ("scores", "base"))
    gone = f"takes {now['UA']} of their pictures for something else under ours (before: {before['UA']})"
    kept = f"names {now['IRA']} of those of the nine others right ({before['IRA']})"
    assert f"{gone}, {kept}, and {now['natural']} of their pictures are proper ones of something" in WORDS
    assert f"{now['UA']} of their pictures are taken for something else (before: {before['UA']})" in README
    assert f"{now['IRA']} of the other classes' are named right ({before['IRA']})" in README
    others = [m for m in SUMMARY if not m.startswith("ours")]
    assert not any(all(mean(m, k) >= mean("ours", k) for k in CHOOSING) for m in others)
    assert "No other method is at least as good in all three." in WORDS
    assert SUMMARY["full"]["cost"]["trained_percent"] == 100
    more, less = f"forgets more ({mean('full', 'UA'):.1f} %)", f"keeps less ({mean('full', 'IRA'):.1f} %)"
    assert mean("full", "UA") > mean("ours", "UA") and mean("full", "IRA") < mean("ours", "IRA")
    assert f"{ENTRIES['full'].title.capitalize()}, which moves all weights, {more} and {less}." in WORDS
    assert all(mean("ours-next", k) > mean("ours", k) for k in CHOOSING)
    assert f"`{ENTRIES['ours-next'].title.capitalize()}` is better in all three than ours by default" in WORDS


def test_no_edit_is_over_the_budget():
    assert all(row["cost"]["evaluations"] <= FOUND["protocol"]["budget"]["evaluations"] for row in FOUND["rows"])


def test_what_keeping_drawings_brings():
    gone, kept = mean("semu-published-free", "UA"), mean("semu-published-free", "IRA")
    assert f"SEMU as published forgets {gone:.1f} % and keeps {kept:.1f} %, with" in WORDS
    assert f"with the model's own drawings {shares('semu-published')}." in WORDS
    assert all(mean("ours-free", k) >= mean("ours", k) for k in CHOOSING)
    assert f"Ours does not need them: {shares('ours-free')} without, {shares('ours')} with them" in WORDS


def test_every_class():
    own = [r for r in FOUND["rows"] if (r["phase"], r["method"], r["seed"]) == ("report", "ours", 0)]
    gone = {r["concept"]: r["scores"]["UA"] for r in own}
    worst = min(gone, key=gone.get)
    assert len(gone) == 10 and f"Of all ten classes {worst} is forgotten least ({gone[worst]:.1f} %)" in WORDS
