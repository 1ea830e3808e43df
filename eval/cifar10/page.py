"""Writes docs/cifar10.md from eval/results/cifar10.json.

python -m eval.cifar10.page
"""

from __future__ import annotations

import argparse
from pathlib import Path

from semu_diffusion.diffusion.concepts.language import series

from ..classification.report import NETS
from ..markdown import made_with, shown, table
from ..pictograms.page import interval
from ..records import read_json, write_text
from .benchmark import CHOOSING, reached
from .methods import ENTRIES

NAMES = ("UA", "IRA", "FID", "natural")

INTRO = """# A class-conditional DDPM on CIFAR-10

The paper's second setting: each edit erases one class of `--model cifar10`, which draws photographs. **UA** is the
share of pictures of the class that a classifier names otherwise, **IRA** its accuracy on the nine others, **FID** the
distance of their pictures to real ones, in the classifier's features, **natural** the share of pictures of the class
that are proper pictures of anything: as sure to the classifier, and as rough, as the unedited model's. {pictures}
pictures per class and model, {steps} DDIM steps, guidance {guidance:g}; intervals of 95 % over the edits. Every method
had at most {evaluations:,} samples through the denoiser{bf16}, and its settings were searched on {validation}, by the
harmonic mean of {choosing}, in whose order they stand here; of ours larger bases were tried with the best. What peers
keep are the model's own drawings, as ours does.

The classifier is a {net} of width {width} that names {right:.2f} % of {tests:,} real test pictures right.
"""

KEPT = """## With and without something to keep

The paper finds that without remaining data forgetting is not total. Ours keeps what the unedited model draws itself,
which needs nobody's pictures; beside it without, and with real pictures as half of it. The settings of those that keep
nothing were searched for them:
"""
PAIRS = (("semu-published-free", "semu-published"), ("ours-free", "ours"), ("ours", "ours-retain"))

EVERY = """## Every class, ours

With seed 0; the settings were chosen on {}.
"""


def pairs_table(summary: dict) -> str:
    """A row per method without and with something that is kept; those of which the summary has both."""
    whole = [pair for pair in PAIRS if all("scores" in summary.get(name, {}) for name in pair)]
    change = lambda pair, k: " → ".join(shown(summary[name]["scores"][k]["mean"], k) for name in pair)  # noqa: E731
    rows = [[" → ".join(ENTRIES[name].title for name in pair), *(change(pair, k) for k in NAMES)] for pair in whole]
    return table(["what is kept", *NAMES], rows)


def ranked(summary: dict) -> dict[str, dict]:
    """The methods with scores, in the order of the harmonic mean by which their settings were chosen, too."""
    whole = {name: own for name, own in summary.items() if "scores" in own}
    means = {name: {k: found["mean"] for k, found in own["scores"].items()} for name, own in whole.items()}
    return {name: whole[name] for name in sorted(whole, key=lambda name: reached(means[name]), reverse=True)}


def methods_table(summary: dict) -> str:
    """A row per method with intervals and costs, the unedited model on top."""
    whole = ranked(summary)
    base = next(iter(whole.values()))["base"]
    rows = [["before", "–", *(shown(base[k]["mean"], k) for k in NAMES), "–", "–", "–"]]
    for name, own in whole.items():
        cost = own["cost"]
        title = ENTRIES[name].title + (f" ({own['diverged']} diverged)" if own["diverged"] else "")
        size = [f"{cost['trained_percent']:.2f}", f"{cost['shipped_bytes'] / 1e6:.2f}", f"{cost['evaluations']:,.0f}"]
        rows.append([title, str(own["rows"]), *(interval(own["scores"][k], k) for k in NAMES), *size])
    return table(["method", "edits", *NAMES, "trained, %", "to ship, MB", "samples"], rows)


def classes_table(rows: list[dict]) -> str:
    """Ours on each class with seed 0, before and after."""
    own = [r for r in rows if (r["phase"], r["method"], r["seed"]) == ("report", "ours", 0) and "scores" in r]
    lines = []
    for row in own:
        after = [shown(row["scores"][k], k) for k in NAMES]
        lines.append([row["concept"], *after, *(shown(row["base"][k], k) for k in ("IRA", "FID"))])
    return table(["erased", *NAMES, "IRA before", "FID before"], lines)


def page(found: dict) -> str:
    """The whole page."""
    protocol, judge, concepts = found["protocol"], found["judge"], found["concepts"]
    searched = series(protocol["validation"])
    intro = INTRO.format(
        pictures=protocol["pictures"], steps=protocol["sampler_steps"], guidance=protocol["budget"]["guidance"],
        evaluations=protocol["budget"]["evaluations"], validation=searched,
        bf16=", under bf16 autocast" if protocol["bf16"] else "", choosing=series(CHOOSING),
        net=NETS[judge["model"]], width=judge["width"], right=judge["right"], tests=judge["pictures"],
    )  # fmt: skip
    sheets = [f"![{c} erased: pictures of each class, before and after](images/cifar10-{c}.png)\n" for c in concepts]
    parts = [intro, f"Erased here: {', '.join(concepts)}.\n", methods_table(found["summary"]), "", sheets[0],
             KEPT, pairs_table(found["summary"]), "", EVERY.format(searched), classes_table(found["rows"]), "",
             *sheets[1:], made_with(found)]  # fmt: skip
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("eval/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args(argv)
    file = args.results / "cifar10.json"
    found = read_json(file)
    if not any("scores" in own for own in found.get("summary", {}).values()):
        parser.error(f"{file} has no reported row; run python -m eval.cifar10.benchmark first")
    write_text(args.docs / "cifar10.md", page(found))


if __name__ == "__main__":
    main()
