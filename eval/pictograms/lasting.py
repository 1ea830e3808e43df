"""How long training takes to bring a concept back, after plain erasing, after `--lasting` and after other methods.

    python -m eval.pictograms.lasting                                   # into eval/results/lasting.json
    python -m eval.pictograms.lasting --concept knife --attack full --rate 1e-4 --set lasting=1
    python -m eval.pictograms.lasting --method esd-x --method full --models models   # edits of the benchmark, too
    python -m eval.pictograms.lasting --attack lora-4 --rate 1e-3 --pictures 4 --pictures 64

Plain and lasting start from the same noise and differ in that option alone; other methods are those of the benchmark
with the settings chosen there. `new word` is the base model, which is taught the concept's pictures under a word that
it never saw: what an erasure that left nothing would last, on a model that draws all the rest. The attacker fine-tunes
the merged model on 16 pictures of the concept (`lora-4`, `lora-16`, `full`) or of other things (`benign-lora`,
`benign-full`) at three rates each, until half of the pictures that are looked at show the concept properly; or learns
an embedding (`inversion`). Each row is written at once, and those in the file are not run again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..peers.diffusion import METHODS, Budget
from ..records import add_set, command, machine, make_parser, read_json, resumed, write_json
from .each import CONCEPTS
from .many import erased_folder

REPORTED = ("knife", "dog", "neon style", "umbrella")
PLAIN, LASTING, NEW = "plain", "lasting", "new word"
WORD = "wug"  # of no caption
PICTURES = 16
LOOKS = (8, 12, 17, 24, 34, 48, 68, 96, 136, 192, 272, 384)  # steps at which the pictures are looked at
HALF = 0.5
LORA_RATES, FULL_RATES = (3e-4, 1e-3, 3e-3), (3e-5, 1e-4, 3e-4)
CACHE: dict = {}  # the last attacker, and the base model's pictures


class Attack(NamedTuple):
    """What is trained, at which rates, and whether on pictures of other things."""

    kind: str
    rank: int
    rates: tuple[float, ...]
    benign: bool = False


ATTACKS = {
    "lora-4": Attack("lora", 4, LORA_RATES),
    "lora-16": Attack("lora", 16, LORA_RATES),
    "full": Attack("full", 0, FULL_RATES),
    "benign-lora": Attack("lora", 16, LORA_RATES, benign=True),
    "benign-full": Attack("full", 0, FULL_RATES, benign=True),
    "inversion": Attack("inversion", 0, (1e-3, 5e-3, 2e-2)),
}


def crossing(curve: list[dict], share: float = HALF) -> float | None:
    """The step at which the line between looks reaches a success; None where it never does."""
    before = {"step": 0, "success": 0.0}
    for look in curve:
        if look["success"] >= share:
            rise = look["success"] - before["success"]
            part = (share - before["success"]) / rise if rise else 1.0
            return before["step"] + part * (look["step"] - before["step"])
        before = look
    return None


def erased(way: str, concept: str, args: argparse.Namespace):
    """The embedded model with the adapter of a way, and the folder of that."""
    from semu_diffusion.diffusion import load_adapter, load_pipeline

    options = args.options if way == LASTING else {k: v for k, v in args.options.items() if k != "lasting"}
    pipe = load_pipeline("pictograms")
    folder = erased_folder([concept], options, args.work / f"{way}-{concept.replace(' ', '-')}")
    load_adapter(pipe, folder)
    return pipe, folder


def scored(way: str, concept: str, args: argparse.Namespace) -> dict:
    """What the erasure took, and its scores, at less than full strength too."""
    from semu_diffusion.evaluation.suites.pictograms import run_pictograms, weaker

    from .many import training_of

    pipe, folder = erased(way, concept, args)
    report, _ = run_pictograms(pipe, [concept], seeds_forget=args.seeds, cache=CACHE.setdefault("base", {}))
    keys = ("UA", "IRA", "CRA", "neighbours", "context", "natural", "FID", "drift", "counts")
    rows = {side: {k: report[side].get(k) for k in keys} for side in ("base", "erased")}
    return {**rows, "weaker": weaker(pipe, [concept]), "training": training_of([folder])}


def pipeline_of(way: str, concept: str, args: argparse.Namespace):
    """The erased model of a way; for a new word the base model."""
    from semu_diffusion.diffusion import load_pipeline

    if way == NEW:
        return load_pipeline("pictograms")
    if way in (PLAIN, LASTING):
        return erased(way, concept, args)[0]
    from .attacks import edited_pipeline
    from .jobs import Job

    job = Job("report", way, concept, 0, args.bench["summary"][way]["hyper"])
    return edited_pipeline(job, Budget(**args.bench["protocol"]["budget"]), args.models)


def attacker_of(way: str, concept: str, pictures: int, args: argparse.Namespace):
    """The erased model under attack with so many pictures; that of the last job is kept."""
    from semu_diffusion.attacks import AttackConfig, PictogramsJudge, Target
    from semu_diffusion.attacks.suite import Attacker
    from semu_diffusion.diffusion import load_pipeline
    from semu_diffusion.diffusion.concepts import name_of, vocabulary_of
    from semu_diffusion.diffusion.pipeline import model_path
    from semu_diffusion.pictograms.oracle import load_oracle

    if CACHE.get("of") != (way, concept, pictures):
        pipe = pipeline_of(way, concept, args)
        config = AttackConfig(seeds=args.seeds, contexts=4, steps=10, pictures=pictures)
        judge = PictogramsJudge(name_of(concept), None, load_oracle())
        words, base = vocabulary_of(model_path("pictograms")), Target(load_pipeline("pictograms"))
        attacker = Attacker(Target(pipe), base, concept, words, judge, config)
        CACHE.update(of=(way, concept, pictures), attacker=called(attacker, WORD) if way == NEW else attacker)
    return CACHE["attacker"]


def called(attacker, word: str):
    """The same pictures, taught and asked for under another word for the concept."""
    from semu_diffusion.diffusion.concepts import name_of

    name, shown = name_of(attacker.concept), attacker.shown
    other = lambda prompts: [p.replace(name, word) for p in prompts]  # noqa: E731
    attacker.shown = replace(shown, prompts=other(shown.prompts))
    attacker.prompts = other(attacker.prompts)
    return attacker


def attacked(way: str, concept: str, name: str, rate: float, pictures: int, args: argparse.Namespace) -> dict:
    """One attack at one rate: the looks, and the steps until half of the pictures show the concept."""
    from semu_diffusion.attacks.inversion import invert, states
    from semu_diffusion.attacks.relearn import fine_tune

    a, attack = attacker_of(way, concept, pictures, args), ATTACKS[name]
    if attack.kind == "inversion":
        name = WORD if way == NEW else concept
        found = invert(a.target, name, a.shown, a.config.inversion_steps, rate)
        look = a.judged(states(a.target, a.prompts, name, found.embedding).detach())
        return {"curve": [{"step": a.config.inversion_steps, **look}], "steps": None}
    looks = tuple(step for step in LOOKS if step <= args.most)
    if attack.benign:
        looks = looks[-1:]
    _, curve = fine_tune(a.target, a.kept if attack.benign else a.shown, attack.kind, looks[-1], rate, attack.rank or 8,
                         probe_at=looks, probe=a.plain, until=HALF)  # fmt: skip
    return {"curve": curve, "steps": None if attack.benign else crossing(curve)}


def wanted(args: argparse.Namespace) -> list[dict]:
    """All jobs: an erasure is scored first, then attacked at each rate; concept by concept, the ways side by side."""
    found = []
    for concept in args.concept or REPORTED:
        found += [{"way": way, "concept": concept} for way in (PLAIN, LASTING)]
        for name in args.attack or ATTACKS:
            attack = ATTACKS[name]
            rates = [r for r in attack.rates if not args.rate or r in args.rate]
            ways = (PLAIN, LASTING, *([] if attack.benign else [NEW]), *args.method)
            found += [{"way": w, "concept": concept, "attack": name, "rate": r, "pictures": n}
                      for n in args.pictures for r in rates for w in ways]  # fmt: skip
    return found


def medians(rows: list[dict]) -> list[dict]:
    """Per attack, rate and number of pictures: the median of the steps that each way lasts, None for beyond the last
    look, over the concepts that all of its ways have."""
    steps: dict[tuple, dict] = {}
    for r in rows:
        if "attack" in r and not ATTACKS[r["attack"]].benign and r["attack"] != "inversion":
            own = steps.setdefault((r["attack"], r["rate"], r["pictures"]), {})
            own.setdefault(r["way"], {})[r["concept"]] = math.inf if r["steps"] is None else r["steps"]
    found = []
    for (attack, rate, pictures), ways in steps.items():
        concepts = sorted(set.intersection(*(set(own) for own in ways.values())))
        if concepts:
            middle = {way: statistics.median(own[c] for c in concepts) for way, own in ways.items()}
            shown = {way: None if value == math.inf else value for way, value in middle.items()}
            found.append({"attack": attack, "rate": rate, "pictures": pictures, "concepts": concepts, "steps": shown})
    return found


def gains(found: list[dict], most: int) -> list[dict]:
    """Per attack, with the usual pictures and at the rate that is worst for lasting: its steps in those of the plain
    way, of each other method, and of the best of these.

    A way that lasts beyond the last look counts with `most` steps; `least` says that a ratio is at least that.
    """
    gained = []
    for attack in dict.fromkeys(own["attack"] for own in found):
        own = [o for o in found if o["attack"] == attack and o["pictures"] == PICTURES and LASTING in o["steps"]]
        if not own:
            continue
        worst = min(own, key=lambda o: o["steps"][LASTING] or math.inf)
        steps = {way: value or most for way, value in worst["steps"].items() if way != NEW}
        others = {way: steps[LASTING] / value for way, value in steps.items() if way != LASTING}
        if PLAIN in others:
            best = min(others, key=others.get)
            gained.append({"attack": attack, "rate": worst["rate"], "plain": others[PLAIN], "best": best,
                           "ratio": others[best], "others": others,
                           "least": worst["steps"][LASTING] is None})  # fmt: skip
    return gained


def price(rows: list[dict]) -> float | None:
    """How many times a plain run's seconds a lasting one takes, over the concepts that have both."""
    seconds = {(r["concept"], r["way"]): r["training"]["seconds"] for r in rows if "training" in r}
    both = [c for c, way in seconds if way == LASTING and (c, PLAIN) in seconds]
    total = lambda way: sum(seconds[c, way] for c in both)  # noqa: E731
    return total(LASTING) / total(PLAIN) if both else None


def write(path: Path, head: dict, rows: list[dict]) -> None:
    """The results file: rows, medians, what is gained and at which price."""
    found = medians(rows)
    summary = {"medians": found, "gains": gains(found, head["most"]), "price": price(rows)}
    write_json(path, {**head, "summary": summary, "rows": rows})


def key(row: dict) -> tuple:
    """What tells a job from all others."""
    return tuple(row.get(name) for name in ("concept", "way", "attack", "rate", "pictures"))


def line(row: dict) -> str:
    """A row for the terminal."""
    first = f"{row['concept']:<12} {row['way']:<8}"
    if "attack" not in row:
        return first + "  ".join(f"{k} {row['erased'][k]:.1f}" for k in ("UA", "IRA", "CRA", "natural"))
    looks = " ".join(f"{look['step']}:{100 * look['success']:.0f}" for look in row["curve"])
    which = f"{row['attack']:<12} {row['rate']:<7g} {row['pictures']:>2} pictures"
    return f"{first} {which}  half after {row['steps']}  ({looks})"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--concept", action="append", choices=CONCEPTS, metavar="C", help="only this (repeatable)")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only this one (repeatable)")
    parser.add_argument("--rate", action="append", type=float, help="only this learning rate (repeatable)")
    parser.add_argument("--pictures", action="append", type=int, help="the attacker's (repeatable); default: 16")
    parser.add_argument("--method", action="append", choices=METHODS, help="of the benchmark, too (repeatable)")
    parser.add_argument("--models", type=Path, help="folder that eval/pictograms/benchmark.py left edited models in")
    parser.add_argument("--benchmark", type=Path, default=Path("eval/results/benchmark.json"))
    parser.add_argument("--most", type=int, default=192, choices=LOOKS, help="steps after which an attack gives up")
    parser.add_argument("--seeds", type=int, default=4, help="pictures per prompt that are looked at")
    add_set(parser)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--work", type=Path, default=Path("runs/lasting"), help="folder of the adapters")
    parser.add_argument("--output", type=Path, default=Path("eval/results/lasting.json"))
    args = parser.parse_args(argv)
    args.options = {"lasting": 4, **dict(args.set)}
    args.pictures, args.method = args.pictures or [PICTURES], args.method or []
    args.bench = read_json(args.benchmark)
    absent = [m for m in args.method if m not in args.bench.get("summary", {})]
    if absent:
        parser.error(f"{args.benchmark} has no reported row of {absent[0]}")
    return args


def main() -> None:
    import torch

    from semu_diffusion.cli.options import quieten
    from semu_diffusion.versions import versions

    quieten()
    args = parse_args()
    torch.set_num_threads(args.threads)
    head = {"command": command(), "set": args.options, "seeds": args.seeds, "most": args.most, "versions": versions(),
            "machine": machine(workers=1, threads=args.threads)}  # fmt: skip
    rows = resumed(args.output, head, ("set", "seeds", "most")).get("rows", [])
    done = {key(row) for row in rows}
    for job in wanted(args):
        if key(job) in done:
            continue
        started = time.perf_counter()
        found = attacked(*job.values(), args) if "attack" in job else scored(*job.values(), args)
        rows.append({**job, **found, "seconds": round(time.perf_counter() - started, 1)})
        write(args.output, head, rows)
        print(line(rows[-1]), flush=True)
    write(args.output, head, rows)  # with this command, also where earlier ones left nothing to run


if __name__ == "__main__":
    main()
