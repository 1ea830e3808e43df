"""Erases 1, 2, 4, 8, 16 and 23 objects of the embedded model at once, in five ways, and scores what is left.

    python -m eval.pictograms.many                                    # all, into eval/results/many.json
    python -m eval.pictograms.many --count 2 --way joint --set steps=20 --output many.json --work runs/many

- stack: one adapter per object, all of them active on the pipeline at strength 1;
- merge: the same adapters added up into one file (`semu merge --way sum`), truncated to --energy of the sum;
- fuse: the same adapters fused in closed form (`semu merge`);
- joint: one run of `semu erase` with --concept for each object;
- uce: the same with --method uce.

At --energy 1 the merged adapter is the stacked ones exactly. The objects are the first of a fixed random order, so each
count has those of the smaller ones and more. Adapters stay in the work folder and rows in the results file, so an
interrupted run goes on. Options are the defaults of `semu erase` unless --set (all runs) or --set-joint (runs with
several concepts) says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

from semu_diffusion.pictograms.words import OBJECTS

from ..records import add_set, command, machine, make_parser, read_json, resolved, resumed, rows_like, write_json

COUNTS = (1, 2, 4, 8, 16, 23)
WAYS = {"stack": "all on", "merge": "added up", "fuse": "fused", "joint": "one run", "uce": "UCE"}  # with their titles
SHOWN = {"UA": "UA, %", "IRA_change": "IRA against the base model, points", "CRA_change": "CRA, points"}
SUMS = {"merge": "sum", "fuse": "fuse"}  # ways of `semu merge`
ORDER = random.Random(0).sample(OBJECTS, len(OBJECTS))
CACHE: dict = {}  # the base model's pictures


def erased_folder(concepts: list[str], options: dict, folder: Path) -> Path:
    """The adapter that erases these concepts, trained unless the folder holds one with the same options."""
    from semu_diffusion.diffusion import EraseConfig, load_pipeline, run_erasure

    config, done = EraseConfig(concept=concepts, **options), folder / "results.json"
    asked = {k: v for k, v in config.to_dict().items() if v is not None}  # the rest follows from the model and concept
    if done.is_file() and asked.items() <= json.loads(done.read_text())["options"].items():
        return folder
    pipe = load_pipeline("pictograms")
    pipe.register_to_config(_name_or_path="pictograms")
    begun = folder / ".work" / "config.json"
    same = begun.is_file() and json.loads(begun.read_text()) == {"model": "pictograms", **config.to_dict()}
    run_erasure(pipe, config, folder, overwrite=not same, resume=same)
    return folder


def training_of(folders: list[Path]) -> dict:
    """Seconds and steps of all runs together, the share of weights trained in them, and the bytes of their files."""
    facts = [json.loads((folder / "results.json").read_text())["training"] for folder in folders]
    return {
        "seconds": round(sum(f["seconds"] for f in facts), 1),
        "steps": sum(f["steps"] for f in facts),
        "trained_percent": sum(f["trained_percent"] for f in facts),
        "bytes": sum((folder / "adapter_model.safetensors").stat().st_size for folder in folders),
    }


def adapted_pipeline(way: str, concepts: list[str], args: argparse.Namespace) -> tuple[object, dict]:
    """The embedded model without these objects, and what that took."""
    from semu_diffusion.diffusion import load_adapter, load_pipeline
    from semu_diffusion.diffusion.merging import merge_adapters
    from semu_diffusion.diffusion.multi_adapter import load_adapters

    pipe, work = load_pipeline("pictograms"), args.work
    if way == "uce" or way == "joint" and len(concepts) > 1:
        options = {"method": "uce"} if way == "uce" else {**args.options, **args.joint_options}
        folder = erased_folder(concepts, options, work / f"{way}-{len(concepts)}")
        load_adapter(pipe, folder)
        return pipe, {"training": training_of([folder])}
    single = {name: erased_folder([name], args.options, work / name.replace(" ", "-")) for name in concepts}
    facts = {"training": training_of(list(single.values()))}
    if way in SUMS and len(concepts) > 1:
        folder, names, started = work / f"{way}-{len(concepts)}", list(single), time.time()
        energy = args.energy if way == "merge" else None
        merged = merge_adapters(
            pipe, list(single.values()), folder, None, energy, "pictograms", names, way=SUMS[way]
        )  # fmt: skip
        size = (folder / "adapter_model.safetensors").stat().st_size
        facts["merged"] = {k: merged[k] for k in ("layers", "ranks", "energy")} | {"bytes": size}
        facts["merged"]["seconds"] = round(time.time() - started, 1)
        return pipe, {**facts, **{k: merged[k] for k in ("interference", "fusion") if k in merged}}
    load_adapters(pipe, {name.replace(" ", "-"): folder for name, folder in single.items()})
    return pipe, facts


def score(way: str, concepts: list[str], args: argparse.Namespace) -> dict:
    """One row: UA over the erased objects, IRA over the others, CRA over the styles, and UA of each object."""
    from semu_diffusion.evaluation.suites.pictograms import run_pictograms

    started = time.time()
    pipe, facts = adapted_pipeline(way, concepts, args)
    report, _ = run_pictograms(pipe, concepts, seeds_forget=args.seeds, cache=CACHE)
    still = report["erased"]["per_concept"]
    return {
        "count": len(concepts),
        "way": way,
        "concepts": concepts,
        "UA_each": {name: 100 - still[name] for name in concepts if name in still},
        "IRA_change": report["erased"]["IRA"] - report["base"]["IRA"],
        "CRA_change": report["erased"]["CRA"] - report["base"]["CRA"],
        "row_seconds": round(time.time() - started, 1),
        **facts,
        **report,
    }


def alone(path: Path, head: dict) -> dict[str, dict]:
    """Object -> its scores when erased alone, from `eval/pictograms/each.py` with the same options, if any."""
    return {row["concept"]: row for row in rows_like(path, head, ("options", "seeds_forget"))}


def changes(row: dict, singles: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Object -> what UA gains, and IRA loses, against this object erased alone, in points."""
    found = {}
    for name in (n for n in row["UA_each"] if n in singles):
        single = singles[name]
        own = single["erased"]["IRA"] - single["base"]["IRA"]
        found[name] = {"UA": row["UA_each"][name] - single["erased"]["UA"], "IRA": row["IRA_change"] - own}
    return found


def summary(rows: list[dict]) -> dict:
    """Scores by way and count."""
    table = {way: {} for way in WAYS}
    for row in rows:
        scores = {"UA": row["erased"]["UA"], **{k: row[k] for k in ("IRA_change", "CRA_change")}}
        table[row["way"]][row["count"]] = scores
    return {"table": table}


def curves(table: dict[str, dict], path: Path) -> Path:
    """UA, and what IRA and CRA lose, over the number of objects, a line per way."""
    from semu_diffusion.evaluation.charts import COLOURS, INK, figure, open_axes, save

    fig = figure(11, 3.6)
    for ax, (key, title) in zip(fig.subplots(1, 3), SHOWN.items()):
        for (way, name), colour in zip(WAYS.items(), COLOURS):
            points = sorted((int(count), own[key]) for count, own in table.get(way, {}).items())
            ax.plot(*zip(*points) if points else ([], []), color=colour, marker="o", markersize=3, label=name)
        ax.set_xscale("log", base=2)
        ax.set_xticks(COUNTS, [str(count) for count in COUNTS])
        ax.set_title(title, color=INK, fontsize=9)
        open_axes(ax, "objects")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return save(fig, path)


def header(args: argparse.Namespace) -> dict:
    """What the numbers depend on."""
    from semu_diffusion.versions import versions

    return {
        "command": command(),
        "options": resolved(args.options),
        "joint_options": args.joint_options,
        "energy": args.energy,
        "seeds_forget": args.seeds,
        "versions": versions(),
        "machine": machine(threads=args.threads),
    }


def write(path: Path, head: dict, rows: list[dict]) -> None:
    """The results file: rows by count and way, and their summary."""
    rows = sorted(rows, key=lambda r: (r["count"], list(WAYS).index(r["way"])))
    write_json(path, {**head, "summary": summary(rows), "rows": rows})


def line(row: dict) -> str:
    """A row for the terminal."""
    scores = "  ".join(f"{k} {row['erased'][k]:.1f}" for k in ("UA", "IRA", "CRA"))
    worst = min(row["UA_each"], key=row["UA_each"].get)
    change = f"IRA {row['IRA_change']:+.1f} against base"
    return f"{row['count']:>2} {row['way']:<6} {scores}  {change}  worst {worst} {row['UA_each'][worst]:.0f}"


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, action="append", metavar="N", help="only so many objects (repeatable)")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this way (repeatable)")
    add_set(parser)
    add_set(parser, "--set-joint", "for joint runs only")
    parser.add_argument("--energy", type=float, default=0.95, help="share of the merged update's energy to keep")
    parser.add_argument("--seeds", type=int, default=10, help="pictures per forgotten prompt")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    parser.add_argument("--work", type=Path, default=Path("runs/many"), help="folder of the adapters")
    parser.add_argument("--alone", type=Path, default=Path("eval/results/pictograms.json"), help="each object alone")
    parser.add_argument("--output", type=Path, default=Path("eval/results/many.json"))
    args = parser.parse_args()
    if not all(1 <= n < len(ORDER) for n in args.count or COUNTS):
        parser.error(f"--count must be between 1 and {len(ORDER) - 1}: something has to be kept")
    args.options, args.joint_options = dict(args.set), dict(args.set_joint)
    return args


def main() -> None:
    import torch

    from semu_diffusion.cli.options import quieten

    quieten()
    args = parse_args()
    torch.set_num_threads(args.threads)
    head = header(args)
    rows = resumed(args.output, head, ("options", "joint_options", "energy", "seeds_forget")).get("rows", [])
    done = {(row["count"], row["way"]) for row in rows}
    for count in args.count or COUNTS:
        for way in args.way or WAYS:
            if (count, way) in done:
                continue
            row = score(way, ORDER[:count], args)
            rows.append({**row, "change_from_alone": changes(row, alone(args.alone, head))})
            write(args.output, head, rows)
            print(line(rows[-1]), flush=True)
    print(json.dumps(read_json(args.output)["summary"], indent=1))


if __name__ == "__main__":
    main()
