"""Ours against each peer, edit by edit, and against what was asked before the runs: a section of docs/benchmark.md."""

from __future__ import annotations

import math
import statistics

from semu_diffusion.evaluation.intervals import bootstrap

from ..markdown import table
from ..peers.diffusion import METHODS
from .attack_tables import methods, percent, pool, pooled, results, title
from .jobs import by_prompts, change, keeps

OURS, ROBUST = "ours-remain", "ours-robust"
RESISTED = ("prompt", "inversion", "inversion-name", "relearn-lora", "benign-lora")
LEAST_UA, MOST_LOST, MOST_TRAINED = 99.0, 1.0, 1.0  # %, points, % of the denoiser's parameters
LEAST = {"natural": 95.0, "neighbours": 97.0}  # %

INTRO = """## Ours against each peer

The peer's value less that of `{ours}` on the same concept and seed, with the 95 % bootstrap interval of the mean
difference where there are several that differ. A peer is better beyond the interval if the lower end is above 0, in UA
and in kept.
"""

ASKED = "## What was asked before the runs\n\n"
YES, SHARED, NO = "yes", "shared", "**no**"


def reported(rows: list[dict], method: str) -> list[dict]:
    """A method's reported rows with its better prompts, less those that diverged."""
    return [r for r in by_prompts(rows, method).get(method, []) if "scores" in r]


def paired(rows: list[dict], peer: str, method: str = OURS) -> dict[str, list[float]]:
    """Peer less a method of ours, of UA and of kept accuracy, for each concept and seed."""
    own = {(r["concept"], r["seed"]): r for r in reported(rows, method)}
    pairs = [(r, own[r["concept"], r["seed"]]) for r in reported(rows, peer) if (r["concept"], r["seed"]) in own]
    return {"UA": [r["scores"]["UA"] - o["scores"]["UA"] for r, o in pairs],
            "kept": [change(r)["kept"] - change(o)["kept"] for r, o in pairs]}  # fmt: skip


def better(differences: dict[str, list[float]]) -> bool:
    """Whether a peer both forgets and keeps more, beyond the intervals of the mean differences."""
    return all(bool(v) and bootstrap(v)[0] > 0 for v in differences.values())


def peers(summary: dict) -> list[str]:
    """Whom ours is compared with: all methods that are not SEMU with our bases."""
    return [m for m in METHODS if m in summary and not m.startswith("ours")]


def difference(values: list[float]) -> str:
    """A mean difference in points with its interval."""
    if not values:
        return "–"
    low, high = bootstrap(values)
    shown = f"{statistics.fmean(values):+.1f}"
    return f"{shown} ({low:+.1f} to {high:+.1f})" if low < high else shown


def against_peers(found: dict) -> str:
    """The table of differences."""
    rows = []
    for peer in peers(found["summary"]):
        differences = paired(found["rows"], peer)
        rows.append([title(peer), *map(difference, differences.values()), "yes" if better(differences) else "no"])
    return "\n".join([INTRO.format(ours=title(OURS)), table(["peer", "UA", "kept", "better in both"], rows), ""])


# ------------------------------------------------------------------------------------------------- targets


def forgetting(found: dict, method: str = OURS) -> list[tuple[str, str, str]]:
    """What was asked of ours without an attack: (asked, measured, whether it is met)."""
    own, name = found["summary"][method], title(method)
    beaten = [title(p) for p in peers(found["summary"]) if better(paired(found["rows"], p, method))]
    share, measured = gone(reported(found["rows"], method))
    lost, trained = [own["changes"][k]["mean"] for k in ("IRA", "CRA")], own["cost"]["trained_percent"]
    targets = [
        ("no peer is better in UA and kept beyond the intervals", ", ".join(beaten) or "none is", not beaten),
        (f"UA ≥ {LEAST_UA:g} %", measured, share >= LEAST_UA),
        (f"IRA and CRA within {MOST_LOST:g} points of the base model", "{:+.1f} and {:+.1f}".format(*lost),
         min(lost) >= -MOST_LOST),
        *((f"{k} ≥ {least:g} %", f"{own['scores'][k]['mean']:.1f}", own["scores"][k]["mean"] >= least)
          for k, least in LEAST.items() if k in own["scores"]),
        (f"≤ {MOST_TRAINED:g} % of the parameters trained", f"{trained:.2f} %", trained <= MOST_TRAINED),
    ]  # fmt: skip
    return [(f"`{name}`: {asked}", measured, YES if met else NO) for asked, measured, met in targets]


def gone(rows: list[dict]) -> tuple[float, str]:
    """UA over all forgotten pictures of some edits, in percent, and the same in words with Wilson's interval."""
    scores = [row["scores"] for row in rows]
    hits, total = pool([s["UA"] / 100 for s in scores], [s["counts"]["forget"] for s in scores])
    share, low, high = percent(hits, total)
    return share, f"{share:.1f} ({low:.1f}–{high:.1f}; {hits} of {total} pictures)"


def order(larger: float, smaller: float) -> str:
    """Whether one number is larger than another; "shared" where they are equal."""
    return YES if larger > smaller else SHARED if larger == smaller else NO


def resisting(found: dict, attacked: dict, attack: str, method: str = ROBUST) -> list[tuple[str, str, str]]:
    """A method of ours against all others that keep the rest, after one attack; nothing where none was run."""
    rivals = [m for m in methods(attacked) if m != method and keeps(m, found["summary"])]
    success = {m: pooled(own) for m in rivals if (own := results(attacked, m, attack))}
    own = results(attacked, method, attack)
    if not own or not success:
        return []
    share, low, _ = pooled(own)
    below = [title(m) for m, (_, _, high) in success.items() if high < low]
    measured = f"{share:.1f} %; the lowest of the others {min(success.values())[0]:.1f} %"
    measured += f"; beaten by {', '.join(below)}" if below else ""
    asked = f"`{title(method)}` after `{attack}`: none that keeps the rest is lower beyond the intervals"
    return [(asked, measured, NO if below else YES)]


def steps(attacked: dict, method: str, attack: str) -> float | None:
    """Median over concepts of the steps until half of the pictures show it again; None where it was not run."""
    found = [r["steps_to_half"] for r in results(attacked, method, attack)]
    return statistics.median(math.inf if s is None else s for s in found) if found else None


def relearning(found: dict, attacked: dict, attack: str) -> list[tuple[str, str, str]]:
    """Whether a peer that keeps the rest takes as long to relearn as the robust option; nothing where none was run."""
    last = max(attacked["protocol"]["attack"]["relearn_steps"])
    shown = lambda s: f"> {last}" if s == math.inf else f"{s:g}"  # noqa: E731
    rivals = {m: s for m in peers(found["summary"]) if keeps(m, found["summary"])
              and (s := steps(attacked, m, attack)) is not None}  # fmt: skip
    own = steps(attacked, ROBUST, attack)
    if own is None or not rivals:
        return []
    most = max(rivals.values())
    slow = ", ".join(title(m) for m, s in rivals.items() if s == most)
    asked = f"`{title(ROBUST)}`, `{attack}`: more steps than all peers that keep the rest"
    return [(asked, f"median {shown(own)} steps; the slowest peer {shown(most)} ({slow})", order(own, most))]


def verdict(found: dict, attacked: dict) -> str:
    """What was asked, what was measured, and whether it is met; attacks only as far as they were run."""
    lines = [line for m in (OURS, ROBUST) if "scores" in found["summary"].get(m, {}) for line in forgetting(found, m)]
    if attacked:
        lines += [line for m in (OURS, ROBUST) for name in RESISTED for line in resisting(found, attacked, name, m)]
        lines += [line for name in ("relearn-lora", "relearn-full") for line in relearning(found, attacked, name)]
    return ASKED + table(["asked", "measured", "met"], list(map(list, lines))) + "\n"
