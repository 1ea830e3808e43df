"""Writes docs/classification.md from what eval/classification/benchmark.py measured: tables, plots, and what they say.

    python -m eval.classification.report                    # eval/results/classification.json -> docs/classification.md

Every sentence with a number in it is computed from the results file.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from semu_diffusion.metrics.unlearning import mean_interval

from ..markdown import table as markdown
from ..records import read_json, write_text

TABLES = {"retain": "retain data allowed", "forget": "forget set only"}
TITLES = {"random10": "random 10 %", "random50": "random 50 %", "class": "one class"}
SHOWN = {"UA": 1, "RA": 1, "TA": 1, "MIA": 1, "gap": 2, "KL": 3, "RMIA": 1, "RMIA_TPR": 1, "seconds": 0, "time": 2,
         "trained_percent": 2}  # fmt: skip
METRICS = (*SHOWN, "UA_test", "bytes")
# SalUn, arXiv 2310.12508, table 1: CIFAR-10, ResNet-18 of width 64, retain data allowed, means of ten runs.
IN_PRINT = {
    "random10": {
        "Retrain": (5.24, 100.00, 94.26, 12.88, 0.00), "FT": (0.63, 99.88, 94.06, 2.70, 3.78),
        "RL": (7.61, 99.67, 92.83, 37.36, 7.15), "GA": (0.69, 99.50, 94.01, 1.70, 4.12),
        "l1-sparse": (4.19, 97.74, 91.59, 9.84, 2.26), "SalUn": (2.85, 99.62, 93.93, 14.39, 1.15),
    },
    "random50": {
        "Retrain": (7.91, 100.00, 91.72, 19.29, 0.00), "FT": (0.44, 99.96, 94.23, 2.15, 6.79),
        "RL": (4.80, 99.55, 91.31, 41.95, 6.65), "GA": (0.40, 99.61, 94.34, 1.22, 7.15),
        "l1-sparse": (1.44, 99.52, 93.13, 4.76, 5.72), "SalUn": (7.75, 94.28, 89.29, 16.99, 2.65),
    },
}  # fmt: skip
REFERENCES = ("Retrain", "Original")
OURS = ("SEMU", "SEMU remain")
NETS = {"resnet18": "ResNet-18", "vgg16": "VGG-16 with BatchNorm"}


def summarise(rows: list[dict]) -> dict:
    """table -> setting -> method -> {metric: [mean, half width of the 95 % interval], seeds, failed, gaps}."""
    found: dict = {}
    for row in rows:
        cell = found.setdefault(row["table"], {}).setdefault(row["setting"], {}).setdefault(row["method"], [])
        cell.append(row)
    return {
        table: {setting: {method: condense(runs) for method, runs in methods.items()}
                for setting, methods in settings.items()}
        for table, settings in found.items()
    }  # fmt: skip


def condense(runs: list[dict]) -> dict:
    """Means and intervals over the seeds; None for the interval of a single one."""
    fine = sorted((r for r in runs if "failed" not in r), key=lambda r: r["seed"])
    cell = {"seeds": len(fine), "failed": len(runs) - len(fine), "hyper": runs[0]["hyper"]}
    cell["gaps"] = {str(r["seed"]): r["gap"] for r in fine if "gap" in r}
    for metric in METRICS:
        values = [r[metric] for r in fine if metric in r]
        if values:
            mean, half = mean_interval(values)
            cell[metric] = [mean, half if math.isfinite(half) else None]
    return cell


def ranked(methods: dict[str, dict]) -> list[str]:
    """Methods with a gap, the smallest first, without the references."""
    names = [name for name, cell in methods.items() if name not in REFERENCES and "gap" in cell]
    return sorted(names, key=lambda name: methods[name]["gap"][0])


def ahead(first: dict, second: dict) -> bool:
    """Whether the first method's gap is the smaller one on the common seeds, its 95 % interval without 0."""
    common = sorted(set(first["gaps"]) & set(second["gaps"]))
    if len(common) < 2:
        return False
    mean, half = mean_interval([second["gaps"][s] - first["gaps"][s] for s in common])
    return mean - half > 0


# ------------------------------------------------------------------------------------------------------ text


def number(value: list | None, digits: int, interval: bool = False) -> str:
    """A mean, with its interval where there is one and it is asked for."""
    if value is None:
        return ""
    mean, half = value
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if interval and half is not None else "")


def table(methods: dict[str, dict]) -> str:
    """Markdown: references first, then the methods by their gap, the best in bold."""
    order = [name for name in REFERENCES if name in methods] + ranked(methods)
    order += [name for name in methods if name not in order]
    best = ranked(methods)[:1]
    keys = [k for k in SHOWN if any(k in cell for cell in methods.values())]
    names = {"gap": "average gap", "RMIA_TPR": "TPR at 1 % FPR", "time": "of Retrain", "trained_percent": "trained %"}
    lines = ["| | " + " | ".join(names.get(k, k) for k in keys) + " | MB changed |", "|---" * (len(keys) + 2) + "|"]
    for name in order:
        cell = methods[name]
        cells = [number(cell.get(k), SHOWN[k], k in ("UA", "RA", "TA", "MIA", "gap", "KL")) for k in keys]
        size = f"{cell['bytes'][0] / 1e6:.2f}" if "bytes" in cell else ""
        if name in REFERENCES:
            cells, size = [c if k != "trained_percent" else "" for c, k in zip(cells, keys)], ""
        shown = f"**{name}**" if name in best else name
        failed = f" ({cell['failed']} of {cell['failed'] + cell['seeds']} diverged)" if cell["failed"] else ""
        lines.append(f"| {shown}{failed} | " + " | ".join(cells) + f" | {size} |")
    return "\n".join(lines)


def verdict(methods: dict[str, dict]) -> str:
    """Who wins, how SEMU stands to it, and who is no better than doing nothing."""
    order = ranked(methods)
    if not order:
        return "No method ended with finite weights."
    best = order[0]
    said = [f"{best} has the smallest average gap to Retrain: {number(methods[best]['gap'], 2, True)}."]
    ours = [name for name in order if name in OURS]
    if ours and best in OURS and len(order) > len(ours):
        rival = next(name for name in order if name not in OURS)
        clear = "clear of" if ahead(methods[best], methods[rival]) else "not clear of chance against"
        said.append(f"That is {clear} the next other method, {rival} ({number(methods[rival]['gap'], 2)}).")
    elif ours:
        mine, place = ours[0], order.index(ours[0]) + 1
        apart = "and the difference is clear" if ahead(methods[best], methods[mine]) else "within chance of the best"
        said.append(
            f"The better SEMU, {mine}, is number {place} of {len(order)} ({number(methods[mine]['gap'], 2)}), {apart}."
        )
    if "Original" in methods and "gap" in methods["Original"]:
        nothing = methods["Original"]["gap"][0]
        useless = [name for name in order if methods[name]["gap"][0] >= nothing]
        less = f"no better: {', '.join(useless)}" if useless else "every method is better"
        said.append(f"Doing nothing has {nothing:.2f}; {less}.")
    return " ".join(said)


def setup(results: dict) -> str:
    """How it was measured."""
    o, seeds = results["options"], results["seeds"]
    data = "scikit-learn's digits" if o["data"] == "digits" else "CIFAR-10 (JPEG copies)"
    some = f", {o['subset']:,} training pictures, a tenth of them for validation" if o["subset"] else ""
    net = NETS[o.get("arch", "resnet18")]
    how = " in bfloat16" if o.get("bf16") else ""
    machine = results["machine"]
    place = f"{machine['workers']} workers on {machine['cores']} cores ({machine['processor']}, {o['device']})"
    return (
        f"{data}{some}; {net} of width {o['width']}, trained for {o['epochs']} epochs{how}; {len(seeds)} seeds, each "
        f"with its own original, split and Retrain; {place}. Budget: {o['passes']} passes over the training set with "
        f"retain data, {o['forget_passes']} over the forget set without. Absolute numbers do not compare with papers, "
        "whose models are wider and trained for longer; the gap to Retrain is what counts."
    )


def in_print(setting: str) -> str:
    """What SalUn's authors print for a setting, by another training of other nets."""
    rows = [[name, *(number([value, None], 2) for value in row)] for name, row in IN_PRINT[setting].items()]
    head = "In print (SalUn, arXiv 2310.12508, table 1): another net, other training, to be read by itself."
    return f"{head}\n\n{markdown(['', 'UA', 'RA', 'TA', 'MIA', 'average gap'], rows)}"


def page(results: dict, images: list[str]) -> str:
    """The whole document."""
    parts = ["# Forgetting in classifiers, beside its peers", setup(results)]
    parts.append(
        "Hyper-parameters: four candidates per method, chosen by the average gap to Retrain on another seed (another "
        "model and split) with the validation set in place of the test set. GA, RL and SalUn are offered SEMU's stop "
        "rule, which needs two numbers: the original's accuracy on unseen data and the share of the training data "
        "that is forgotten (from which it expects Retrain's accuracy, by the learning curve of Hestness et al., arXiv "
        "1712.00409). ± is half of Student's 95 % interval over the seeds.\n\n"
        "UA: % of the forget set misclassified. RA, TA: accuracy on the remaining and the test data. MIA: % of the "
        "forget set that SalUn's SVC takes for non-members. Average gap: mean distance of these four to Retrain's. KL: "
        "of Retrain to the model on the forget set, nats. RMIA: AUC in %, forget against test set; 50 is a guess. "
        "TPR at 1 % FPR: % of the forget set that RMIA finds where it takes 1 % of the test set for members; 1 is a "
        "guess. Of Retrain: the seconds as a multiple of Retrain's. Trained: share of the model's numbers that "
        "training moved. MB changed: what must be stored to repeat it; for "
        "SEMU the adapter with U, R and V."
    )
    for name, title in TABLES.items():
        if name not in results["tables"]:
            continue
        parts.append(f"## {title[0].upper()}{title[1:]}")
        parts += [f"![average gap to Retrain, {title}]({image})" for image in images if image.endswith(f"_{name}.png")]
        for setting, methods in results["tables"][name].items():
            parts += [f"### {TITLES[setting]}", verdict(methods), table(methods)]
            whole = results["options"]["data"] != "digits" and not results["options"]["subset"]
            parts += [in_print(setting)] if whole and name == "retain" and setting in IN_PRINT else []
    alone = {name for methods in results["tables"].get("forget", {}).values() for name in methods}
    absent = ", ".join(name for name in results["methods"] if alone and name not in alone)
    if absent:
        parts.append(f"Not in the second table, as they need the remaining data: {absent}.")
    parts.append(f"## Again\n\n```bash\n{results['command']}\npython -m eval.classification.report\n```")
    used = ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v != "none")
    parts.append(f"Versions: {used}. All rows, seeds, candidates and choices are in the results file.")
    return "\n\n".join(parts) + "\n"


# ----------------------------------------------------------------------------------------------------- plots


def plots(results: dict, folder: Path, stem: str = "classification") -> list[Path]:
    """Per table a picture of the average gaps with their intervals; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    written = []
    for name, settings in results["tables"].items():
        figure, axes = plt.subplots(1, len(settings), figsize=(4 * len(settings), 3.6), squeeze=False)
        for axis, (setting, methods) in zip(axes[0], settings.items()):
            bars(axis, methods)
            axis.set_title(f"{TITLES[setting]}, {TABLES[name]}", fontsize=9)
        figure.tight_layout()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{stem}_{name}.png"
        temporary = file.with_suffix(".tmp.png")
        figure.savefig(temporary, dpi=120)
        plt.close(figure)
        temporary.replace(file)
        written.append(file)
    return written


def bars(axis, methods: dict[str, dict]) -> None:
    """Horizontal bars, the best on top, SEMU in another colour, doing nothing as a line."""
    order = ranked(methods)[::-1]
    means = [methods[name]["gap"][0] for name in order]
    errors = [methods[name]["gap"][1] or 0 for name in order]
    colours = ["tab:orange" if name in OURS else "tab:gray" for name in order]
    axis.barh(order, means, xerr=errors, color=colours, error_kw={"elinewidth": 0.8, "capsize": 2})
    if "gap" in methods.get("Original", {}):
        axis.axvline(methods["Original"]["gap"][0], color="black", linestyle=":", linewidth=1)
    axis.set_xlim(left=0)
    axis.set_xlabel("average gap to Retrain, points (dotted: doing nothing)", fontsize=8)
    axis.tick_params(labelsize=8)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("eval/results/classification.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/classification.md"))
    args = parser.parse_args(arguments)
    if not args.results.is_file():
        parser.error(f"no results at {args.results}; run eval/classification/benchmark.py first")
    results = read_json(args.results)
    if not results["rows"]:
        parser.error(f"{args.results} holds no measured row yet; let eval/classification/benchmark.py finish")
    images = plots(results, args.output.parent / "images", args.output.stem)
    write_text(args.output, page(results, [f"images/{file.name}" for file in images]))
    print(f"{args.output}; {', '.join(map(str, images))}")


if __name__ == "__main__":
    main()
