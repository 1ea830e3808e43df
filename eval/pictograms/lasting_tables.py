"""How long erasures last, as a section of docs/pictograms.md."""

from __future__ import annotations

import math
import statistics

from ..markdown import made_with, shown, table
from ..peers.diffusion import METHODS
from .lasting import ATTACKS, LASTING, NEW, PICTURES, PLAIN

INTRO = """## How long it lasts

Steps of training until half of the pictures show the concept again, the median over concepts, after a plain run, after
one with `--lasting {rounds}` and after other methods with the settings of the [comparison](benchmark.md): a LoRA of
rank 4 or 16 on the attention layers, or all weights, on {pictures} pictures of the concept, by Adam at the given rate;
{looks} pictures at each look, straight lines between looks.{price}
"""

WORD = f'"{NEW}" is the base model, taught the same pictures under a word that it never saw.\n'
SCORES = ("UA", "IRA", "CRA", "neighbours", "context", "natural")


def named(way: str) -> str:
    """A way as tables name it."""
    return METHODS[way].title if way in METHODS else way


def gained(own: dict) -> str:
    """A sentence on what lasting rounds gain against an attack."""
    least = "at least " if own["least"] else ""
    return (
        f"Against `{own['attack']}`, at the rate that is worst for it ({own['rate']:g}), lasting takes {least}"
        f"{own['plain']:.1f} times the steps of plain."
    )


def times_table(gains: list[dict]) -> str:
    """How many times the steps of each other way lasting takes, at the rates of `gained`."""
    least = lambda way: min(own["others"].get(way, math.inf) for own in gains)  # noqa: E731
    ways = sorted(dict.fromkeys(way for own in gains for way in own["others"]), key=least)

    def cell(own: dict, way: str) -> str:
        return ("≥ " if own["least"] else "") + f"{own['others'][way]:.1f}" if way in own["others"] else "–"

    head = ["lasting, in times the steps of", *(f"{own['attack']} {own['rate']:g}" for own in gains)]
    return table(head, [[named(way), *(cell(own, way) for own in gains)] for way in ways])


def sooner(rows: list[dict]) -> list[str]:
    """A sentence on the attacks that lasting rounds shortened, where there are any."""
    steps = {(r["concept"], r["attack"], r["rate"], r["pictures"], r["way"]): r["steps"] for r in rows if "steps" in r}
    pairs = [(own, value, steps.get((*own, PLAIN))) for (*own, way), value in steps.items() if way == LASTING]
    less = [pair for pair in pairs if None not in pair[1:] and pair[1] < pair[2]]
    worse = [f"{concept} against `{attack}` at {rate:g}, {n} pictures ({after:.0f} steps instead of {before:.0f})"
             for (concept, attack, rate, n), after, before in less]  # fmt: skip
    return [f"Sooner than after a plain run: {', '.join(worse)}."] if worse else []


def steps_table(medians: list[dict], most: int, corner: str, column: str) -> str:
    """Median steps: a row per way, a column per attack that is in `medians`, headed by `column` with its values."""
    ways = dict.fromkeys(way for own in medians for way in own["steps"])
    cell = lambda value: f"> {most}" if value is None else f"{value:.0f}"  # noqa: E731
    rows = [[named(way), *(cell(own["steps"][way]) if way in own["steps"] else "–" for own in medians)] for way in ways]
    rows.append(["concepts", *(str(len(own["concepts"])) for own in medians)])
    return table([corner, *(column.format(**own) for own in medians)], rows)


def budgets(medians: list[dict]) -> list[dict]:
    """Those attacks that were run with several numbers of pictures, with the ways that all of these have."""
    which = lambda own: (own["attack"], own["rate"])  # noqa: E731
    several = [own for own in medians if sum(which(own) == which(other) for other in medians) > 1]
    return [{**own, "steps": {way: value for way, value in own["steps"].items()
                              if all(way in other["steps"] for other in several)}} for own in several]  # fmt: skip


def untrained_table(rows: list[dict]) -> str:
    """Pictures that show the concept after attacks that do not train on it, in percent: means over concepts."""
    found: dict[str, dict[tuple, list[float]]] = {}
    for r in rows:
        if "attack" in r and (ATTACKS[r["attack"]].benign or r["attack"] == "inversion"):
            own = found.setdefault(r["way"], {}).setdefault((r["attack"], r["rate"]), [])
            own.append(100 * r["curve"][-1]["success"])
    attacks = sorted({a for own in found.values() for a in own}, key=lambda a: (list(ATTACKS).index(a[0]), a[1]))
    cells = lambda own: [f"{statistics.fmean(own[a]):.1f}" if a in own else "–" for a in attacks]  # noqa: E731
    return table(["%", *(f"{name} {rate:g}" for name, rate in attacks)],
                 [[named(way), *cells(own)] for way, own in found.items()])  # fmt: skip


def costs_table(rows: list[dict]) -> str:
    """What the erasures score and took, one by one."""
    head = ["concept", "way", *SCORES, "UA at 0.5", "UA at 0.25", "steps", "s", "trained %"]
    return table(head, [
        [r["concept"], r["way"], *(shown(r["erased"][k], k) for k in SCORES),
         *(shown(r["weaker"][k]["UA"], "UA") for k in ("0.5", "0.25")), str(r["training"]["steps"]),
         f"{r['training']['seconds']:.0f}", f"{r['training']['trained_percent']:.2f}"]
        for r in rows if "erased" in r
    ])  # fmt: skip


def lasting(found: dict) -> str:
    """How long training takes to bring concepts back, after plain erasing, after lasting rounds and after others."""
    most, rows = found["most"], found["rows"]
    order = lambda own: (list(ATTACKS).index(own["attack"]), own["rate"], own["pictures"])  # noqa: E731
    medians = sorted(found["summary"]["medians"], key=order)
    concepts = sorted({c for own in medians for c in own["concepts"]})
    price = f" It takes {found['summary']['price']:.1f} times a plain run." if found["summary"]["price"] else ""
    parts = [INTRO.format(rounds=found["set"]["lasting"], pictures=PICTURES, looks=4 * found["seeds"], price=price)]
    parts += [WORD] if any(NEW in own["steps"] for own in medians) else []
    usual = [own for own in medians if own["pictures"] == PICTURES]
    parts += [f"Concepts: {', '.join(concepts)}.\n", steps_table(usual, most, "steps", "{attack} {rate:g}"), ""]
    gains = sorted(found["summary"]["gains"], key=lambda own: list(ATTACKS).index(own["attack"]))
    parts += [*(gained(own) for own in gains), *sooner(rows), ""]
    parts += [times_table(gains), ""] if any(len(own["others"]) > 1 for own in gains) else []
    if several := budgets(medians):
        parts += ["With fewer and with more pictures of the concept:", ""]
        parts += [steps_table(several, most, "steps, by pictures", "{attack} {rate:g}: {pictures}"), ""]
    if any("attack" in r and (ATTACKS[r["attack"]].benign or r["attack"] == "inversion") for r in rows):
        parts += [f"Pictures that show the concept, in percent, after {most} steps of training on pictures of other "
                  "things (`benign`), and after textual inversion; means over concepts:", "",
                  untrained_table(rows), ""]  # fmt: skip
    parts += ["What it costs, and what is gone where the adapter is used at half and at a quarter of its strength:", ""]
    return "\n".join([*parts, costs_table(rows), "", made_with(found)])


def flags(options: dict) -> str:
    """Options as the shell has them."""
    return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in options.items())


def variants(files: list[dict]) -> str:
    """Lasting rounds with other options, each from a file of its own: what they score, take and withstand."""
    first, rows = [r for r in files[0]["rows"] if "attack" in r and r["way"] == LASTING], []
    attacks = [(r["attack"], r["rate"], r["pictures"]) for r in first]
    for found in files:
        scored = next(r for r in found["rows"] if "erased" in r and r["way"] == LASTING)
        steps = {(r["attack"], r["rate"], r["pictures"]): r["steps"]
                 for r in found["rows"] if "attack" in r and r["way"] == LASTING}  # fmt: skip
        shown_steps = [f"> {found['most']}" if steps[a] is None else f"{steps[a]:.0f}" for a in attacks]
        cost = [f"{scored['training']['trained_percent']:.2f}", f"{scored['training']['seconds']:.0f}"]
        rows.append([f"`{flags(found['set'])}`", *(shown(scored["erased"][k], k) for k in SCORES), *cost, *shown_steps])
    concept, pictures = first[0]["concept"], first[0]["pictures"]
    head = ["options", *SCORES, "trained %", "s", *(f"{name} {rate:g}" for name, rate, _ in attacks)]
    text = f"""### With more rank, and with more rounds

On {concept}, a concept for choosing: steps until half of the pictures show it again, on {pictures} pictures.
"""
    commands = [f"`{command}`" for found in files for command in (*found.get("earlier", []), found["command"])]
    return "\n".join([text, table(head, rows), "", f"{', '.join(commands)}.\n"])
