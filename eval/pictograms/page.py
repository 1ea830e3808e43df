"""Writes docs/benchmark.md, its plots and the README's table from eval/results/benchmark.json and attacks.json.

python -m eval.pictograms.page
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from semu_diffusion.evaluation.charts import GONE, INK, KEPT, figure, open_axes, save

from ..markdown import filled, made_with, seconds, shown, table
from ..peers.diffusion import METHODS, ROBUST
from ..records import read_json, write_text
from .attack_tables import attacks_section, pooled, relearning_plot, results, title
from .attacks import BASE, current
from .jobs import FORGETS, SCORES, attackable, split_name
from .verdict import OURS, against_peers, reported, verdict

COLUMNS = {
    "prompt": "adversarial prompt", "inversion": "inversion", "inversion-name": "inversion from the name",
    "relearn-lora": "relearn", "benign-lora": "benign",
}  # fmt: skip

COMPARED = ("UA", "unseen", "kept", "context", "natural")  # scores of the README's table
BRIEF = ("prompt", "inversion-name", "relearn-lora", "benign-lora")  # and its attacks: of the two inversions the harder
PLOTTED = {
    "UA": "UA: pictures in which the concept is gone, %",
    "natural": f"natural: proper pictures instead, % (where UA ≥ {FORGETS:g})",
}

INTRO = """# Benchmark: ours and its peers on the embedded model

Every method had at most {evaluations:,} samples through the denoiser for everything it does, and the same search:
three values of one hyper-parameter crossed with two of another, all on the first validation concept and the better
half on the second ({validation}), which are not in the tables. Each peer was searched twice: with its own prompts,
as its authors train it, and with the prompts that `semu erase` trains on. The better one of the search is in the
headline, with all seeds; of some the other one is further down, with the first. Chosen is the best harmonic mean of
UA, IRA, CRA and natural; the last was added after the search had been looked at, as some won it by ruined
pictures, and before the reported edits. Nothing is tuned per reported concept. Peers were written from their papers,
and each one's steps are tested against the paper's formula; where those train on pictures, all got the model's own
drawings. UCE, ESD-x and Concept Ablation are those of `semu erase --method`.{over}

`ours, adversarial` is `ours, remain geometry` with `--adversarial {rounds} --strength {strength:g}`, whose round comes
on top of the budget.

Reported: {concepts};
{seeds}. UA is the share of pictures of the erased concept in which the oracle no longer
names it, **unseen** the same in wordings that no training saw; IRA and CRA are its accuracy on what must stay, **kept**
is the mean of these two (base model: {base:.1f}), **neighbours** the accuracy on what is nearest to the erased concept.
**context** is how often the rest of a forgotten prompt is still drawn: the style of an erased object, the object of an
erased style; **natural** how often it is a proper picture of something. Methods in bold are on the front: no other is
as good in UA, kept and natural and better in one of them.
"""

OVER = """

Not within the budget: {}, each at most. Choosing what is drawn instead and truncating what is
written came on top of it there."""

PLOT = """
![forgetting and keeping](images/benchmark.png)
"""

INTERVALS = """## With intervals

Means over a method's edits, one per concept and seed, with 95 % bootstrap intervals of that mean, where it is of
several that differ.
"""

OTHER = """## With the other prompts

The kind of prompts that did worse in the search, reported with the first seed.
"""

ATTACKED = """The last five columns are the share of pictures that show the concept again after an attack, over the
concepts that were attacked; {steps} steps of relearning and of benign fine-tuning. Below are their intervals.
"""

TAKES = """## What it takes

To ship: of ours the native adapter as it is written, of peers all trained numbers in half precision. Seconds and memory
are those of the edits of seed {seed}, all on one machine; the rest is the mean of all.
"""

CLAIMS = """## What others report

Other model, other concepts, other classifiers: beside ours, not against it.
"""


def interval(found: dict | None, key: str) -> str:
    """A mean with its interval; without one where the rows do not differ, or there is but one."""
    if found is None:
        return "–"
    low, high = found["interval"]
    if low == high:
        return shown(found["mean"], key)
    return f"{shown(found['mean'], key)} ({shown(low, key)}–{shown(high, key)})"


def mean(found: dict, key: str) -> str:
    """A mean as tables show it; – where there is none."""
    return shown(found.get(key, {}).get("mean"), key)


def sized(cost: dict) -> list[str]:
    """The share of weights trained, what is shipped and the time of an edit."""
    return [f"{cost['trained_percent']:.2f}", f"{cost['shipped_bytes'] / 1e6:.2f}", seconds(cost["seconds"])]


def again(attacks: dict, method: str, asked: list[str]) -> list[str]:
    """How often the concept shows again after each attack, in percent; – where it was not run."""
    return [f"{pooled(own)[0]:.1f}" if (own := results(attacks, method, name)) else "–" for name in asked]


def asked_of(attacks: dict, methods: Iterable[str]) -> list[str]:
    """The attacks of `COLUMNS` that were run on any of these methods."""
    return [name for name in COLUMNS if any(results(attacks, m, name) for m in methods)]


def headline(summary: dict, attacks: dict) -> str:
    """Everything about a method in a row, means only."""
    names, asked = [k for k in SCORES if k != "drift"], asked_of(attacks, [BASE, *METHODS])
    rows = [
        [marked(m, own), *(mean(own["scores"], k) for k in names), *sized(own["cost"]), *again(attacks, m, asked)]
        for m, own in ordered(summary)
    ]
    head = ["method", *names, "trained, %", "to ship, MB", "s", *(COLUMNS[name] for name in asked)]
    return table(head, rows)


def compared(summary: dict, attacks: dict) -> str:
    """The README's table: the base model, and the methods that forget and keep the rest; – where nothing was run."""
    good = {m: own for m, own in ordered(summary) if m in attackable(summary)}
    asked, base = [a for a in asked_of(attacks, good) if a in BRIEF], ordered(summary)[0][1]["base"]
    kept = f"{(base['IRA']['mean'] + base['CRA']['mean']) / 2:.1f}"
    before = [mean(base, "UA"), "", kept, "", mean(base, "natural"), "", "", ""]
    rows = [["base model", *before, *again(attacks, BASE, asked)]]
    for m, own in good.items():
        scores = {**own["scores"], "kept": own["changes"]["kept"]}
        rows.append([title(m), *(mean(scores, k) for k in COMPARED), *sized(own["cost"]), *again(attacks, m, asked)])
    return table(["method", *COMPARED, "trained, %", "MB", "s", *(COLUMNS[name] for name in asked)], rows)


def marked(name: str, own: dict) -> str:
    """A method's title, bold on the front, with the number of edits that diverged."""
    diverged = f" ({own['diverged']} diverged)" if own["diverged"] else ""
    return (f"**{title(name)}**" if own.get("front") else title(name)) + diverged


def scores_table(summary: dict, other: bool = False) -> str:
    """Forgetting and keeping, best kept first among those on the front."""
    rows = []
    names = [k for k in SCORES if any(k in own["scores"] for _, own in ordered(summary, other))]
    for name, own in ordered(summary, other):
        cells = [interval(own["scores"].get(k), k) for k in names]
        kept = interval(own["changes"]["kept"], "kept")
        rows.append([marked(name, own), str(own["rows"]), cells[0], kept, *cells[1:]])
    return table(["method", "edits", "UA", "kept", *names[1:]], rows)


def ordered(summary: dict, other: bool = False) -> list[tuple[str, dict]]:
    """Methods with scores, in the order of the sum of forgetting and keeping; with their better or other prompts."""
    whole = [(n, own) for n, own in summary.items() if "scores" in own and (split_name(n)[1] is not None) == other]
    return sorted(whole, key=lambda item: -(item[1]["scores"]["UA"]["mean"] + item[1]["changes"]["kept"]["mean"]))


def cost_table(summary: dict) -> str:
    """What an edit takes and what must be shipped."""
    rows = []
    for name, own in ordered(summary):
        cost = own["cost"]
        hyper = ", ".join(f"{k}={v}" for k, v in own["hyper"].items())
        rows.append([title(name), seconds(cost["seconds"]), f"{cost['peak_memory_mb']:.0f}",
                     f"{cost['evaluations']:,.0f}", f"{cost['trained']:,.0f} ({cost['trained_percent']:.2f} %)",
                     f"{cost['shipped_bytes'] / 1e6:.2f}", f"`{hyper}`"])  # fmt: skip
    return table(["method", "s", "peak MB", "evaluations", "trained", "to ship, MB", "chosen"], rows)


def claims_table(summary: dict) -> str:
    """The published figures of those methods that have any."""
    rows = [
        [METHODS[n].title, METHODS[n].paper, METHODS[n].claim or "–"] for n, _ in ordered(summary) if METHODS[n].paper
    ]
    return table(["method", "paper", "UA / IRA / CRA on UnlearnCanvas: styles, objects"], rows)


def plot(summary: dict, path: Path) -> Path:
    """Kept accuracy over UA, and over proper pictures of those that forget, with intervals; ours in colour, numbered as
    in the legend."""
    fig = figure(11, 5)
    axes = fig.subplots(1, 2)
    for number, (name, own) in enumerate(ordered(summary), 1):
        y, colour = own["changes"]["kept"], GONE if name.startswith("ours") else KEPT
        for ax, key in zip(axes, PLOTTED if own["scores"]["UA"]["mean"] >= FORGETS else ["UA"]):
            x = own["scores"][key]
            errors = [[[abs(v["mean"] - end)] for end in v["interval"]] for v in (x, y)]
            ax.errorbar(x["mean"], y["mean"], xerr=errors[0], yerr=errors[1], color=colour, elinewidth=0.8, alpha=0.9,
                        fmt="o" if own.get("front") else ".", label=f"{number}  {title(name)}")  # fmt: skip
            ax.annotate(str(number), (x["mean"], y["mean"]), xytext=(3 + 7 * (number % 2), 3), fontsize=8, color=INK,
                        textcoords="offset points", annotation_clip=True)  # fmt: skip
    for ax, label in zip(axes, PLOTTED.values()):
        open_axes(ax, label)
    axes[0].set_ylabel("kept: mean of IRA and CRA, %", color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return save(fig, path)


def seeds_of(rows: list[dict], summary: dict) -> str:
    """Which seeds the methods were reported with."""
    own = {m: sorted({r["seed"] for r in reported(rows, m)}) for m, _ in ordered(summary)}
    most = max(own.values(), key=len)
    fewer = [seeds for seeds in own.values() if len(seeds) < len(most)]
    said = f"seeds {', '.join(map(str, most))}" if len(most) > 1 else f"seed {most[0]}"
    if not fewer:
        return said
    longest = [f"`{title(m)}`" for m, seeds in own.items() if seeds == most]
    return f"{said} for {', '.join(longest)}\nand seed {fewer[0][0]} for the others"


def over_budget(found: dict) -> dict[str, int]:
    """Methods of which an edit took more than the budget, and the most of it; without those that say it of themselves.

    Of ours neither choosing the anchor nor the truncation was counted when its steps were planned.
    """
    most: dict[str, int] = {}
    for row in found["rows"]:
        if row["phase"] == "report" and "cost" in row and not METHODS[row["method"]].more:
            most[row["method"]] = max(most.get(row["method"], 0), row["cost"]["evaluations"])
    return {m: n for m, n in most.items() if n > found["protocol"]["budget"]["evaluations"]}


def page(found: dict, attacks: dict) -> str:
    """The whole page."""
    rows = [row for row in found["rows"] if row["phase"] == "report"]
    summary = found["summary"]
    bases = [(row["base"]["IRA"] + row["base"]["CRA"]) / 2 for row in rows if "base" in row]
    over = ", ".join(f"`{METHODS[m].title}` {n:,}" for m, n in over_budget(found).items())
    intro = INTRO.format(
        evaluations=found["protocol"]["budget"]["evaluations"],
        over=OVER.format(over) if over else "",
        rounds=ROBUST["adversarial"],
        strength=ROBUST["strength"],
        validation=", ".join(found["protocol"]["validation"]),
        concepts=", ".join(dict.fromkeys(row["concept"] for row in rows)),
        seeds=seeds_of(found["rows"], summary),
        base=sum(bases) / len(bases),
    )
    ours = [verdict(found, attacks), against_peers(found)] if "scores" in summary.get(OURS, {}) else []
    takes = TAKES.format(seed=min(row["seed"] for row in rows))
    attacked = [ATTACKED.format(steps=max(attacks["protocol"]["attack"]["relearn_steps"]))] if attacks else []
    others = [OTHER, scores_table(summary, other=True), ""] if ordered(summary, other=True) else []
    parts = [intro, headline(summary, attacks), "", *attacked, PLOT, INTERVALS, scores_table(summary), "", *others,
             *ours, takes, cost_table(summary), "", CLAIMS, claims_table(summary), "", made_with(found)]  # fmt: skip
    return "\n".join([*parts, *([attacks_section(attacks, summary)] if attacks else [])])


def parse_args() -> tuple[argparse.Namespace, dict, dict]:
    """The options and both results files; the program ends where there is nothing to write about."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("eval/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="its table is written between its marks")
    args = parser.parse_args()
    file, attacks = args.results / "benchmark.json", read_json(args.results / "attacks.json")
    if not file.exists():
        parser.error(f"{file} is not there; run python -m eval.pictograms.benchmark first")
    found = read_json(file)
    if "search" not in found["protocol"]:
        parser.error(f"{file} was made with an earlier search; remove it and run python -m eval.pictograms.benchmark")
    if not any("scores" in own for own in found["summary"].values()):
        parser.error(f"{file} has no reported row yet; let eval/pictograms/benchmark.py go on")
    if attacks:
        attacks["rows"] = current(attacks["rows"], found["summary"])
    return args, found, attacks


def main() -> None:
    args, found, attacks = parse_args()
    plot(found["summary"], args.docs / "images" / "benchmark.png")
    if attacks:
        relearning_plot(attacks, args.docs / "images" / "relearning.png")
    write_text(args.docs / "benchmark.md", page(found, attacks))
    rows = compared(found["summary"], attacks)
    write_text(args.readme, filled(args.readme.read_text(), "comparison", f"{rows}\n"))


if __name__ == "__main__":
    main()
