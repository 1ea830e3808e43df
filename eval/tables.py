"""Writes docs/pictograms.md from the results files, so that no figure in the docs was typed by hand.

python -m eval.tables
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .pictograms.lasting import crossing
from .records import read_json, resolved, write_text

RESULTS = Path("eval/results")
SCORES = ("UA", "IRA", "CRA", "neighbours", "natural", "FID", "drift")


def shown(value: float | None, key: str) -> str:
    """A score as the tables print it."""
    return "–" if value is None else f"{value:.3f}" if key == "drift" else f"{value:.1f}"


def seconds(value: float) -> str:
    """Seconds with two digits: 0.082, 1.4, 71."""
    return f"{value:.0f}" if value >= 10 else f"{float(f'{value:.2g}'):g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def made_with(found: dict) -> str:
    """The command, machine and versions behind a table."""
    machine = found["machine"]
    place = f"{machine['cores']} cores ({machine['processor']})"
    place += f", {machine['workers']} at a time" if "workers" in machine else ""
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    return f"`{found['command']}` on {place}. Versions: {versions}.\n"


def not_defaults(found: dict) -> str:
    """A sentence on the options that are not today's defaults of `semu erase`; "" where all are."""
    today = resolved({})
    usual = {k: "by the concept" if v is None else v for k, v in today.items()}
    off = [f"`--{k.replace('_', '-')} {v}` ({usual[k]})" for k, v in found["options"].items() if v != today.get(k, v)]
    return f"Measured with {', '.join(off)}; in brackets the default.\n\n" if off else ""


def all_concepts(found: dict) -> str:
    """The 30 concepts one by one, and their means."""
    total, rows = found["summary"], []
    names = [k for k in SCORES if any(k in row["erased"] for row in found["rows"])]  # earlier runs lack some
    for row in found["rows"]:
        training = row["training"]
        scores = [shown(row["erased"].get(k), k) for k in names]
        before = [shown(row["base"][k], k) for k in ("IRA", "CRA")]
        rows.append([row["concept"], *scores, *before, str(training["steps"]), f"{training['trained_percent']:.2f}"])
    means = [shown(total["erased"].get(k), k) for k in names] + [shown(total["base"][k], k) for k in ("IRA", "CRA")]
    rows.append(["**mean**", *means, "", f"≤ {total['trained_percent']:.2f}"])
    head = ["erased", *names, "base IRA", "base CRA", "steps", "trained %"]
    worst, share = total["worst_UA"]
    text = f"""## Each concept by itself

UA is the share of pictures of the erased concept in which the oracle no longer names it, IRA and CRA its accuracy on
what must stay: concepts of the same kind and of the other. Nothing is tuned per concept.

Worst UA: {worst}, {share:.1f}. IRA changes by {total["IRA_change"]:+.1f} and CRA by {total["CRA_change"]:+.1f} points
on average. One erasure took {seconds(total["seconds"])} s on average.
"""
    return "\n".join([text, table(head, rows), "", not_defaults(found) + made_with(found)])


def ablation(found: dict) -> str:
    """One option changed at a time."""
    rows = []
    for name, variant in found["variants"].items():
        total = variant["summary"]
        scores = [shown(total["erased"][k], k) for k in ("UA", "IRA", "CRA", "FID", "drift")]
        changes = [f"{total[f'{k}_change']:+.1f}" for k in ("IRA", "CRA")]
        options = ", ".join(f"{k}={v}" for k, v in variant["options"].items()) or "the defaults"
        cost = [f"{total['trained_percent']:.2f}", seconds(total["seconds"]), str(total["concepts"])]
        rows.append([name, f"`{options}`", *scores, *changes, *cost])
    head = ["variant", "options", "UA", "IRA", "CRA", "FID", "drift", "ΔIRA", "ΔCRA", "trained %", "s", "concepts"]
    return "\n".join(["## One option changed at a time", "", table(head, rows), "", made_with(found)])


def many(found: dict) -> str:
    """Several objects at once, in four ways."""
    rows = []
    for row in found["rows"]:
        worst = min(row["UA_each"], key=row["UA_each"].get)
        scores = [f"{row['erased'][k]:.1f}" for k in ("UA", "IRA", "CRA")]
        changes = [f"{row[f'{k}_change']:+.1f}" for k in ("IRA", "CRA")]
        size = row.get("merged", row["training"])["bytes"]
        cost = [seconds(row["training"]["seconds"]), f"{size / 1e6:.1f}"]
        rows.append([str(row["count"]), row["way"], *scores, *changes, f"{worst}, {row['UA_each'][worst]:.1f}", *cost])
    total = found["summary"]
    fine = "reaches" if total["best_reaches_UA_95_and_IRA_within_5"] else "does not reach"
    text = f"""## Several objects at once

`stack`: one adapter per object, all active. `merge`: the same adapters as one file, truncated to {found["energy"]:g} of
the sum's energy. `fuse`: the same adapters fused in closed form. `joint`: one run for all. The best way for
{total["most"]} objects is {total["best"]}; it {fine} a UA of 95 with an IRA within 5 points of the base model's.
"""
    head = ["objects", "way", "UA", "IRA", "CRA", "ΔIRA", "ΔCRA", "worst UA", "s of training", "MB"]
    return "\n".join([text, table(head, rows), "", not_defaults(found) + made_with(found)])


def captured(found: dict) -> str:
    """How much of the later gradients the first bases capture."""
    rows = [
        [
            concept,
            str(row["step"]),
            f"{100 * row['captured']:.1f}",
            "–" if row["left"] is None else f"{row['left']:.2f}",
        ]
        for concept, run in found["runs"].items()
        for row in run
    ]
    text = """## What the first bases still capture

Share of the forgetting gradient's energy inside span(U) × span(V), while R is trained and the stop rule is off; `left`
is the share of the way to the target that is still to go.
"""
    return "\n".join([text, table(["concept", "step", "captured %", "left"], rows), "", made_with(found)])


def lasting(found: dict) -> str:
    """How long training takes to bring concepts back, after plain erasing and after lasting rounds."""
    gains, most, rows = found["summary"]["gains"], found["most"], []
    steps = lambda own: f"> {most}" if own is None else f"{own:.0f}"  # noqa: E731
    for own in gains:
        times = f"{'≥ ' if own['least'] else ''}{own['ratio']:.1f}"
        rows.append(
            [own["concept"], own["attack"], f"{own['rate']:g}", steps(own["plain"]), steps(own["lasting"]), times]
        )
    rounds = found["set"]["lasting"]
    price = f"It takes {found['summary']['price']:.1f} times a plain run." if found["summary"]["price"] else ""
    text = f"""## How long it lasts

Steps of training until half of the pictures show the concept again, after a plain run and after one with
`--lasting {rounds}`: a LoRA of rank 4 or 16 on the attention layers, or all weights, on 16 pictures of the concept, by
Adam at the given rate; {4 * found["seeds"]} pictures at each look, straight lines between looks. {price}
"""
    parts = [text, table(["concept", "attack", "rate", "plain", "lasting", "times"], rows), ""]
    scores = ("UA", "IRA", "CRA", "neighbours", "context", "natural")
    head = ["concept", "way", *scores, "UA at 0.5", "UA at 0.25", "steps", "s", "trained %"]
    kept = [
        [r["concept"], r["way"], *(shown(r["erased"][k], k) for k in scores),
         *(shown(r["weaker"][k]["UA"], "UA") for k in ("0.5", "0.25")), str(r["training"]["steps"]),
         f"{r['training']['seconds']:.0f}", f"{r['training']['trained_percent']:.2f}"]
        for r in found["rows"] if "erased" in r
    ]  # fmt: skip
    parts += ["What it costs, and what is gone where the adapter is used at half and at a quarter of its strength:", ""]
    parts += [table(head, kept), ""]
    others = [
        [r["concept"], r["way"], r["attack"], f"{r['rate']:g}", str(r["curve"][-1]["step"]),
         f"{100 * r['curve'][-1]['success']:.0f}"]
        for r in found["rows"] if r.get("attack", "").startswith(("benign", "inversion"))
    ]  # fmt: skip
    if others:
        parts += [
            "Training on pictures of other things (`benign`) and textual inversion, pictures that show the concept:"
        ]
        parts += ["", table(["concept", "way", "attack", "rate", "steps", "%"], others), ""]
    return "\n".join([*parts, made_with(found)])


def lasting_tried(found: dict) -> str:
    """What was tried against relearning before the option was built."""
    rows, last = [], lambda curve: f"> {curve[-1]['step']}"
    for own in found["rows"]:
        steps = [last(own[k]) if (s := crossing(own[k])) is None else f"{s:.0f}" for k in ("lora", "full")]
        kept = "–" if own["keep_error"] is None else f"{1e3 * own['keep_error']:.1f}"
        proper = "–" if own["coherent"] is None else f"{100 * own['coherent']:.0f}"
        rows.append([own["way"], str(own["steps"]), *steps, proper, kept])
    lora, full = (found["attacks"][k] for k in ("lora", "full"))
    text = f"""## What was tried to make it last

On {found["concept"]}, which is not reported: steps until half of {found["pictures"]} pictures show it again, under a
LoRA of rank {lora["rank"]} at {lora["rate"]:g} and under training of all weights at {full["rate"]:g}; how many pictures
of its prompts are proper ones right after erasing, where that was looked at; and the mean squared error on 64 kept
records, in thousandths. Simulated attackers: {found["attackers"]}.
The second row is what training takes where nothing was erased.
"""
    head = ["way", "steps", "LoRA", "all weights", "proper %", "keep error"]
    return "\n".join([text, table(head, rows), "", f"{found['note'][0].upper()}{found['note'][1:]}.\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/pictograms.md"))
    args = parser.parse_args()
    parts = {"pictograms": all_concepts, "many": many, "ablation": ablation, "captured": captured, "lasting": lasting}
    parts["lasting_tried"] = lasting_tried
    found = [write(results) for name, write in parts.items() if (results := read_json(RESULTS / f"{name}.json"))]
    title = "# Erasing pictograms: measured\n\nWritten by `python -m eval.tables` from the files in `eval/results/`.\n"
    write_text(args.output, "\n".join([title, *found]))


if __name__ == "__main__":
    main()
