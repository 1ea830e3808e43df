"""Writes docs/pictograms.md, and tables in other pages, from the results files, so that no figure was typed by hand.

python -m eval.tables
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from .classification.speed import speed_table
from .markdown import filled, made_with, seconds, shown, table
from .pictograms.anchors import ANCHORS, CONCEPTS, NEAR
from .pictograms.lasting_tables import lasting, variants
from .pictograms.many import WAYS, curves
from .pictograms.wordings import CONCEPTS as WORDED
from .records import read_json, resolved, write_text

RESULTS, DOCS = Path("eval/results"), Path("docs")
SCORES = ("UA", "IRA", "CRA", "neighbours", "natural", "FID", "drift")


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


def stages(found: dict) -> str:
    """CPU seconds of one erasure by stage, of several commits side by side."""
    names = list(dict.fromkeys(name for row in found["rows"] for name in row["stages"]))
    rows = [
        [row["commit"], f"{row['cpu_seconds']:.1f}", *(f"{row['stages'].get(k, 0):.1f}" for k in names),
         str(row["steps"]), ", ".join(f"{s:.1f}" for s in row["all"])]
        for row in found["rows"]
    ]  # fmt: skip
    text = f"""## What an erasure takes

CPU seconds of erasing {found["concept"]} with one thread, by the defaults and the code of several commits, measured in
turn on one machine beside other work; the fastest run of each.
"""
    table_ = table(["commit", "CPU s", *names, "steps", "all runs"], rows)
    return "\n".join([text, table_, "", made_with(found)])


# ------------------------------------------------------------------------------- tables in other pages


def anchors(found: dict) -> str:
    """What to draw instead, in several ways, on the validation concepts."""
    rows = []
    for row in found["rows"]:
        erased, training = row["erased"], row["training"]
        drawn = row["anchors"][0] if len(row["anchors"]) == 1 else "others"
        named = f"{row['anchor']}: {drawn}" if drawn and row["anchor"] != "nothing" else row["anchor"]
        hurt = min(
            (k for k in erased["per_concept"] if k != row["concept"].removesuffix(" style")),
            key=lambda k: erased["per_concept"][k] - row["base"]["per_concept"][k],
        )
        lost = row["base"]["per_concept"][hurt] - erased["per_concept"][hurt]
        hurt = f"{hurt} {erased['per_concept'][hurt]:.0f}" if lost > 0 else "none"
        scores = [shown(erased.get(k), k) for k in ("UA", "IRA", "CRA", "neighbours", "context", "natural")]
        rows.append([row["concept"], named, f"{row['near']:g}", *scores, hurt, str(training["steps"])])
    head = ["concept", "anchor", "near", "UA", "IRA", "CRA", "neighbours", "context", "natural", "hurt most", "steps"]
    done = {(row["anchor"], row["near"], row["concept"]) for row in found["rows"]}
    left = {
        (name, near): [c for c in CONCEPTS if (name, near, c) not in done] for near in NEAR for name in ANCHORS
    }  # fmt: skip
    some = lambda own: f" ({', '.join(own)})" if len(own) < len(CONCEPTS) else ""  # noqa: E731
    told = [f"{name} with {near:g}{some(own)}" for (name, near), own in left.items() if own]
    missing = f"Not run yet: {'; '.join(told)}.\n\n" if told else ""
    return "\n".join([table(head, rows), "", missing + made_with(found)])


def wordings(found: dict) -> str:
    """Unseen wordings, by concept and, over all concepts, by wording."""
    total, rows = found["summary"], []
    for row in found["rows"]:
        base, erased, anchor = (row[k] for k in ("base", "erased", "anchor"))
        values = (erased["UA"], erased["natural"], base["natural"], anchor["natural"], erased["beside"], base["beside"])
        rows.append([row["concept"], anchor["asked"], *(f"{v:.1f}" for v in values)])
    sides = [total["erased"]["UA"], total["erased"]["natural"], total["base"]["natural"], total["anchor"]["natural"]]
    sides += [total["erased"]["beside"], total["base"]["beside"]]
    rows.append(["**mean**", "", *(f"{v:.1f}" for v in sides)])
    head = ["erased", "anchor", "UA", "natural", "base", "base, asked for the anchor", "beside", "base"]
    kinds: dict[str, list[tuple[dict, dict]]] = {}
    for row in found["rows"]:
        for group, own in row["erased"]["per_wording"].items():
            if own["counts"]:
                wording = re.sub(r"^(synonym|typo|language|beside|with): .*", r"\1", group)
                kinds.setdefault(wording, []).append((own, row["base"]["per_wording"][group]))
    each = []
    for wording, pairs in sorted(kinds.items()):
        pictures = sum(own["pictures"] for own, _ in pairs)
        mean = lambda side, key: sum(p[side][key] * p[side]["pictures"] for p in pairs) / pictures  # noqa: E731,B023
        figures = (f"{v:.1f}" for v in (mean(0, "UA"), mean(0, "natural"), mean(1, "natural")))
        each.append([wording, *figures, str(pictures)])
    by_wording = table(["wording", "UA", "natural", "base", "pictures"], each)
    left = [c for c in WORDED if c not in {row["concept"] for row in found["rows"]}]
    missing = f"Not run yet: {', '.join(left)}.\n\n" if left else ""
    return "\n".join([table(head, rows), "", by_wording, "", missing + not_defaults(found) + made_with(found)])


def many(found: dict) -> str:
    """Several objects at once, in every way."""
    rows = []
    for row in found["rows"]:
        worst, own = min(row["UA_each"], key=row["UA_each"].get), row.get("merged")
        scores = [f"{row['erased']['UA']:.1f}", *(f"{row[f'{k}_change']:+.1f}" for k in ("IRA", "CRA"))]
        cost = [seconds(row["training"]["seconds"]), seconds(own["seconds"]) if own else "–"]
        cost.append(f"{(own or row['training'])['bytes'] / 1e6:.1f}")
        rows.append([str(row["count"]), WAYS[row["way"]], *scores, f"{worst}, {row['UA_each'][worst]:.0f}", *cost])
    head = ["objects", "", "UA", "IRA against the base model", "CRA", "worst UA", "s of training", "s of merging", "MB"]
    return "\n".join([table(head, rows), "", not_defaults(found) + made_with(found)])


def sizes(found: dict) -> str:
    """What files of several sizes score, over all concepts; of each way the largest file."""
    rows, whole = [], found["unet_bytes"]
    for way, own in found["summary"].items():
        native, lora = own["bytes"].values()
        bytes_ = [
            f"{native / 1e6:.2f}",
            f"{100 * native / whole:.1f}",
            f"{lora / 1e6:.2f}",
            f"{100 * lora / whole:.1f}",
        ]
        scores = [shown(own.get(k), k) for k in ("UA", "IRA", "CRA", "neighbours", "natural")]
        rows.append([way, *bytes_, f"{100 * own['sd15_share']:.2f}", *scores])
    head = ["way", "native, MB", "% of the UNet", "LoRA, MB", "% of the UNet", "% of SD 1.5's UNet, counted"]
    head += ["UA", "IRA", "CRA", "neighbours", "natural"]
    names = list(dict.fromkeys(row["concept"] for row in found["rows"]))
    text = f"Means over {', '.join(names)}. SD 1.5's layers have the mean ranks of these here.\n"
    return "\n".join([table(head, rows), "", text, made_with(found)])


BLOCKS = {
    "anchors.md": ("anchors", anchors),
    "classifiers.md": ("classifier_speed", speed_table),
    "evaluation.md": ("wordings", wordings),
    "many.md": ("many", many),
    "formats.md": ("sizes", sizes),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DOCS / "pictograms.md", help="the other pages go beside it")
    args = parser.parse_args()
    parts = {
        "pictograms": all_concepts, "ablation": ablation, "captured": captured, "seconds": stages, "lasting": lasting,
    }  # fmt: skip
    found = [write(results) for name, write in parts.items() if (results := read_json(RESULTS / f"{name}.json"))]
    if all(others := [read_json(RESULTS / f"lasting_{name}.json") for name in ("guitar", "rank", "rounds")]):
        found.append(variants(others))
    title = "# Erasing pictograms: measured\n\nWritten by `python -m eval.tables` from the files in `eval/results/`.\n"
    write_text(args.output, "\n".join([title, *found]))
    for page, (name, write) in BLOCKS.items():
        if results := read_json(RESULTS / f"{name}.json"):
            write_text(args.output.parent / page, filled((DOCS / page).read_text(), name, write(results)))
    if results := read_json(RESULTS / "many.json"):
        curves(results["summary"]["table"], args.output.parent / "images" / "many.png")


if __name__ == "__main__":
    main()
