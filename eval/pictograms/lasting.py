"""How long training takes to bring a concept back, after plain erasing and after `--lasting`.

    python -m eval.pictograms.lasting                                   # into eval/results/lasting.json
    python -m eval.pictograms.lasting --concept knife --attack full --rate 1e-4 --set lasting=2

Both ways start from the same noise and differ in that option alone. The attacker fine-tunes the merged model on 16
pictures of the concept (`lora-4`, `lora-16`, `full`) or of other things (`benign-lora`, `benign-full`) at three rates
each, until half of the pictures that are looked at show the concept properly; or learns an embedding (`inversion`).
Each row is written at once, and those in the file are not run again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

from ..records import add_set, command, machine, make_parser, resumed, write_json
from .each import CONCEPTS
from .many import erased_folder

REPORTED = ("knife", "dog", "neon style", "umbrella")
PLAIN, LASTING = "plain", "lasting"
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
    "inversion": Attack("inversion", 0, (5e-3,)),
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


def attacker_of(way: str, concept: str, args: argparse.Namespace):
    """The erased model under attack; that of the last job is kept."""
    from semu_diffusion.attacks import AttackConfig, PictogramsJudge, Target
    from semu_diffusion.attacks.suite import Attacker
    from semu_diffusion.diffusion import load_pipeline
    from semu_diffusion.diffusion.concepts import name_of, vocabulary_of
    from semu_diffusion.diffusion.pipeline import model_path
    from semu_diffusion.pictograms.oracle import load_oracle

    if CACHE.get("of") != (way, concept):
        pipe, _ = erased(way, concept, args)
        config = AttackConfig(seeds=args.seeds, contexts=4, steps=10)
        judge = PictogramsJudge(name_of(concept), None, load_oracle())
        words, base = vocabulary_of(model_path("pictograms")), Target(load_pipeline("pictograms"))
        CACHE.update(of=(way, concept), attacker=Attacker(Target(pipe), base, concept, words, judge, config))
    return CACHE["attacker"]


def attacked(way: str, concept: str, name: str, rate: float, args: argparse.Namespace) -> dict:
    """One attack at one rate: the looks, and the steps until half of the pictures show the concept."""
    from semu_diffusion.attacks.inversion import invert, states
    from semu_diffusion.attacks.relearn import fine_tune

    a, attack = attacker_of(way, concept, args), ATTACKS[name]
    if attack.kind == "inversion":
        found = invert(a.target, concept, a.shown, a.config.inversion_steps, rate)
        look = a.judged(states(a.target, a.prompts, concept, found.embedding).detach())
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
            rates = [r for r in ATTACKS[name].rates if not args.rate or r in args.rate]
            found += [
                {"way": w, "concept": concept, "attack": name, "rate": r} for r in rates for w in (PLAIN, LASTING)
            ]
    return found


def gains(rows: list[dict], most: int) -> list[dict]:
    """Per concept, attack and rate: the steps that each way lasts, and the ratio of both.

    A way that lasts to the last look counts with that many steps: `least` says that the ratio is at least that.
    """
    steps = {(r["concept"], r["attack"], r["rate"], r["way"]): r["steps"] for r in rows
             if "attack" in r and not ATTACKS[r["attack"]].benign and r["attack"] != "inversion"}  # fmt: skip
    found = []
    for concept, attack, rate in dict.fromkeys(key[:3] for key in steps):
        plain, lasting = (steps.get((concept, attack, rate, way), -1) for way in (PLAIN, LASTING))
        if plain is None or -1 in (plain, lasting):
            continue  # the plain one lasts as long as is looked, or one is not run yet
        found.append({"concept": concept, "attack": attack, "rate": rate, PLAIN: plain, LASTING: lasting,
                      "ratio": (lasting or most) / plain, "least": lasting is None})  # fmt: skip
    return found


def price(rows: list[dict]) -> float | None:
    """How many times a plain run's seconds a lasting one takes, over the concepts that have both."""
    seconds = {(r["concept"], r["way"]): r["training"]["seconds"] for r in rows if "training" in r}
    both = [c for c, way in seconds if way == LASTING and (c, PLAIN) in seconds]
    total = lambda way: sum(seconds[c, way] for c in both)  # noqa: E731
    return total(LASTING) / total(PLAIN) if both else None


def write(path: Path, head: dict, rows: list[dict]) -> None:
    """The results file: rows, what is gained and at which price."""
    summary = {"gains": gains(rows, head["most"]), "price": price(rows)}
    write_json(path, {**head, "summary": summary, "rows": rows})


def line(row: dict) -> str:
    """A row for the terminal."""
    first = f"{row['concept']:<12} {row['way']:<8}"
    if "attack" not in row:
        return first + "  ".join(f"{k} {row['erased'][k]:.1f}" for k in ("UA", "IRA", "CRA", "natural"))
    looks = " ".join(f"{look['step']}:{100 * look['success']:.0f}" for look in row["curve"])
    return f"{first} {row['attack']:<12} {row['rate']:<7g} half after {row['steps']}  ({looks})"


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--concept", action="append", choices=CONCEPTS, metavar="C", help="only this (repeatable)")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only this one (repeatable)")
    parser.add_argument("--rate", action="append", type=float, help="only this learning rate (repeatable)")
    parser.add_argument("--most", type=int, default=192, choices=LOOKS, help="steps after which an attack gives up")
    parser.add_argument("--seeds", type=int, default=4, help="pictures per prompt that are looked at")
    add_set(parser)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--work", type=Path, default=Path("runs/lasting"), help="folder of the adapters")
    parser.add_argument("--output", type=Path, default=Path("eval/results/lasting.json"))
    args = parser.parse_args()
    args.options = {"lasting": 1, **dict(args.set)}
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
    done = {(r["concept"], r["way"], r.get("attack"), r.get("rate")) for r in rows}
    for job in wanted(args):
        if (job["concept"], job["way"], job.get("attack"), job.get("rate")) in done:
            continue
        started = time.perf_counter()
        found = attacked(*job.values(), args) if "attack" in job else scored(*job.values(), args)
        rows.append({**job, **found, "seconds": round(time.perf_counter() - started, 1)})
        write(args.output, head, rows)
        print(line(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
