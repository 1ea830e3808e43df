"""Unlearning in classifiers: SEMU and its peers on the same data, with the same budget and the same search.

    python -m eval.classification.benchmark --bf16 --channels-last --workers 2        # 2 cores, a day; it goes on
    python -m eval.classification.benchmark --subset 5000 --workers 2                 # 2 cores, some hours
    python -m eval.classification.benchmark --width 64 --epochs 60 --batch-size 256 --passes 5 --device cuda
    python -m eval.classification.benchmark --data digits --width 4 --epochs 5 --output digits.json

For each setting (a random 10 % or 50 %, one class) and seed, an original and a Retrain are trained. Each method then
starts from the original: once with the remaining data at hand, once with the forget set alone where it can. Its
hyper-parameters are those of its four candidates with the smallest average gap to Retrain in a search on another seed
(another model, another split), measured on the validation set in place of the test set; nothing reported is searched.
All rows are kept as they come, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from semu_diffusion.classification.models import MODELS
from semu_diffusion.classification.unlearning import PACKAGES
from semu_diffusion.metrics.unlearning import average_gap
from semu_diffusion.versions import versions

from ..peers.classification import PEERS
from ..processes import as_done
from ..records import command, machine, make_parser, read_json, resumed, write_json
from .jobs import NOTHING, RETRAIN, SEARCH_SEED, SETTINGS, Options, available, data_of, model_names
from .jobs import run_row as run
from .jobs import train_model as train
from .report import TABLES, plots, summarise

KEY = ("table", "setting", "method", "seed", "hyper")
NOT_TRAINING = ("passes", "forget_passes", "shadow_pairs", "device", "data")  # do not change what a model learns
METHODS = [name for name in PEERS if name != RETRAIN]


def key(row: dict) -> str:
    """What identifies a job and its row."""
    return json.dumps([row[k] for k in KEY], sort_keys=True)


def methods_of(table: str, methods: list[str]) -> dict[str, tuple[dict, ...]]:
    """The candidates of each method that can work in a table."""
    grids = {name: PEERS[name].alone if table == "forget" else PEERS[name].grid for name in methods}
    return {name: grid for name, grid in grids.items() if grid}


def job(table: str, setting: str, method: str, seed: int, hyper: dict | None = None) -> dict:
    return {"table": table, "setting": setting, "method": method, "seed": seed, "hyper": hyper or {}}


def search_jobs(settings: list[str], methods: list[str]) -> list[dict]:
    """Retrain, then each candidate of each method."""
    jobs = [job(table, setting, RETRAIN, SEARCH_SEED) for table in TABLES for setting in settings]
    for table in TABLES:
        for setting in settings:
            for name, grid in methods_of(table, methods).items():
                jobs += [job(table, setting, name, SEARCH_SEED, hyper) for hyper in grid]
    return jobs


def with_gaps(rows: list[dict]) -> list[dict]:
    """The rows with their gap to the Retrain of the same table, setting and seed, and their time over its time."""
    retrain = {(r["table"], r["setting"], r["seed"]): r for r in rows if r["method"] == RETRAIN}
    for row in rows:
        target = retrain.get((row["table"], row["setting"], row["seed"]))
        if target and "UA" in row:
            row["gap"], row["time"] = average_gap(row, target), row["seconds"] / target["seconds"]
    return rows


def choose(rows: list[dict], settings: list[str], methods: list[str]) -> dict[str, dict]:
    """ "table/setting/method" -> its candidate with the smallest gap; left out where all failed."""
    chosen = {}
    for table in TABLES:
        for setting in settings:
            for name in methods_of(table, methods):
                mine = [r for r in rows if (r["table"], r["setting"], r["method"]) == (table, setting, name)]
                fine = [r for r in mine if "gap" in r]
                if fine:
                    chosen[f"{table}/{setting}/{name}"] = min(fine, key=lambda r: r["gap"])["hyper"]
    return chosen


def result_jobs(chosen: dict[str, dict], settings: list[str], seeds: list[int]) -> list[dict]:
    """Retrain, the original and each method with its chosen hyper-parameters, on every seed."""
    jobs = [job(t, k, m, s) for s in seeds for t in TABLES for k in settings for m in (RETRAIN, NOTHING)]
    for seed in seeds:
        jobs += [job(*name.split("/"), seed, hyper) for name, hyper in chosen.items()]
    return jobs


class Benchmark:
    """The results file and what is still to do."""

    def __init__(self, args: argparse.Namespace, options: Options):
        self.args, self.options = args, options
        self.seeds = list(range(args.seeds))
        self.head = {
            "command": command(),
            "options": options.facts(),
            "settings": args.setting,
            "methods": args.method,
            "seeds": self.seeds,
            "search_seed": SEARCH_SEED,
            "versions": versions(PACKAGES),
            "machine": machine(workers=args.workers, threads=args.threads),
        }
        old = resumed(args.output, self.head, ("options",))
        self.search, self.rows, self.chosen = old.get("search", []), old.get("rows", []), {}

    def write(self) -> None:
        """The results file: all rows, and tables of those that the present choice wants."""
        wanted = {key(j) for j in result_jobs(self.chosen, self.args.setting, self.seeds)}
        shown = with_gaps([r for r in self.rows if key(r) in wanted])
        results = {**self.head, "chosen": self.chosen, "tables": summarise(shown)}
        write_json(self.args.output, {**results, "search": self.search, "rows": self.rows})

    def fill(self, rows: list[dict], jobs: list[dict]) -> None:
        """Runs the jobs that have no row yet."""
        there = {key(r) for r in rows}
        todo = [j for j in jobs if key(j) not in there]
        jobs = [(self.options, j, self.args.threads) for j in todo]
        for count, (_, row) in enumerate(as_done(run, jobs, self.args.workers), 1):
            rows.append(row)
            with_gaps(rows)
            self.write()
            print(f"{count}/{len(todo)}  {line(row)}", flush=True)

    def go(self) -> dict:
        """Models, search, results; returns what is in the file, {} where --until ends before them."""
        args = self.args
        data_of(self.options)  # decoded once, before there are several processes
        jobs = [(self.options, name, args.threads) for name in model_names(self.options, args.setting, self.seeds)]
        for _, done in as_done(train, jobs, args.workers):
            print(done, flush=True)
        if args.until == "models":
            return {}
        self.fill(self.search, search_jobs(args.setting, args.method))
        self.chosen = choose(self.search, args.setting, args.method)
        if args.until == "search":
            self.write()
            return {}
        self.fill(self.rows, result_jobs(self.chosen, args.setting, self.seeds))
        self.write()
        return read_json(args.output)


def line(row: dict) -> str:
    """A row for the terminal."""
    name = f"{row['table']:<6} {row['setting']:<8} {row['method']:<11} seed {row['seed']:<4}"
    if "failed" in row:
        return f"{name} failed: {row['failed']}  {row['hyper']}"
    scores = "  ".join(f"{k} {row[k]:.1f}" for k in ("UA", "RA", "TA", "MIA"))
    return f"{name} {scores}  gap {row.get('gap', float('nan')):.2f}  {row['seconds']:.0f} s  {row['hyper']}"


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data", default="../shared/data/cifar10", help="folder with train.parquet and test.parquet, or digits")
    add("--subset", type=int, help="training pictures, a tenth of them for validation; half as many for test")
    add("--arch", choices=MODELS, default=Options.arch, help="the net")
    add("--width", type=int, default=Options.width, help="its first channels; 64 in the papers")
    add("--epochs", type=int, default=Options.epochs, help="of the original, Retrain and the shadow models")
    add("--lr", type=float, default=Options.lr, help="their learning rate")
    add("--batch-size", type=int, default=Options.batch_size, help="of training and unlearning")
    add("--passes", type=int, default=Options.passes, help="budget with retain data, in passes over all of it")
    add("--forget-passes", type=int, default=Options.forget_passes, help="budget without, over the forget set")
    add("--shadow-pairs", type=int, default=Options.shadow_pairs, help="pairs of shadow models for RMIA")
    add("--bf16", action="store_true", help="train these models in bfloat16; unlearning is in float32")
    add("--channels-last", action="store_true", help="and with the channels last in memory")
    add("--setting", action="append", choices=SETTINGS, help="only this one (repeatable)")
    add("--method", action="append", choices=METHODS, help="only this one (repeatable)")
    add("--seeds", type=int, default=3, help="originals and splits that are reported")
    add("--until", choices=("models", "search", "results"), default="results", help="the last part to do")
    add("--workers", type=int, default=1, help="processes")
    add("--threads", type=int, default=1, help="torch threads of each")
    add("--device", default=Options.device, help="cpu, cuda, ...")
    add("--cache", default=Options.cache, help="folder for decoded pictures and trained models")
    add("--output", type=Path, default=Path("eval/results/classification.json"))
    args = parser.parse_args(arguments)
    args.setting, args.method = args.setting or list(SETTINGS), args.method or METHODS
    return args


def options_of(args: argparse.Namespace) -> Options:
    """The cache has a folder per set of options, so that models of other options are never mistaken for these."""
    options = Options(**{f.name: getattr(args, f.name) for f in fields(Options)})
    facts = {k: v for k, v in options.facts().items() if k not in NOT_TRAINING}
    name = "-".join(f"{k}{v}" for k, v in facts.items())
    return Options(**{**options.facts(), "cache": str(Path(args.cache).expanduser() / Path(args.data).name / name)})


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    if not available(args.data):
        print(f"skipped: no train.parquet and test.parquet in {args.data}; give their folder with --data, or digits")
        return
    results = Benchmark(args, options_of(args)).go()
    if not results:
        print(f"done with the {args.until}; without --until {args.until} the same command goes on")
        return
    drawn = plots(results, args.output.parent, args.output.stem)
    print(f"{args.output}; {', '.join(map(str, drawn))}")


if __name__ == "__main__":
    main()
