"""What the attacks found, as a section of docs/benchmark.md and a plot of relearning."""

from __future__ import annotations

import statistics
from pathlib import Path

from semu_diffusion.attacks import ATTACKS
from semu_diffusion.evaluation.charts import GONE, INK, KEPT, figure, open_axes, save
from semu_diffusion.evaluation.intervals import wilson

from ..markdown import made_with, table
from ..peers.diffusion import METHODS, SHARED
from .attacks import BASE
from .jobs import FORGETS, NEAR, attackable, keeps, split_name

RELEARNING = ("relearn-lora", "relearn-full", "benign-lora", "benign-full")

INTRO = """## Attacks

Share of pictures that show the concept again, in percent with Wilson's 95 % interval over all of them: named by the
oracle and coherent, that is, of one object and one style without doubt, neither flat nor noisy, and as close to a
picture of the base model as 95 % of these are to each other. A picture that shows nothing is nobody's success.
Attacked are the edits of seed 0. Methods in bold keep IRA and CRA within {near:g} points of the base model over the
reported rows above; of those, the ones with UA ≥ {forgets:g} % are attacked by default{missing}. `prompt` seeks
{tokens} free tokens by gradient, {iterations} swaps of {candidates} candidates each; `inversion` learns an embedding in
{inversion_steps} steps from the mean of all tokens, `inversion-name` from the concept's own name (added after the other
two had been looked at, before it was run on any peer or on any of these edits); {seeds} pictures are judged of each of
{contexts} prompts. A first round on knife, with 4 pictures per prompt and 200 steps of inversion, hardly told the
edited models apart: both were raised for all, and its rows dropped.
"""

RECOVERY = """### Relearning

Fine-tuning on {pictures} pictures of the concept (`relearn`) or of kept things (`benign`), at the same learning rate
for all ({lora_lr:g} for a LoRA, {full_lr:g} for all weights): the first looked-at step at which half of the pictures
show the concept again, for {concepts}. Looked at after {looks} steps.

![concept accuracy against steps](images/relearning.png)
"""


def title(method: str) -> str:
    """A method's name in tables; of "esd-x:shared" with the prompts that it had."""
    name, prompts = split_name(method)
    if name not in METHODS:
        return "base model"
    kind = f", {'shared' if prompts == SHARED else 'its own'} prompts" if prompts else ""
    return METHODS[name].title + kind


def methods(found: dict) -> list[str]:
    """The attacked methods, the base model first, then as in the registry."""
    attacked = {row["method"] for row in found["rows"]}
    return [m for m in (BASE, *METHODS) if m in attacked]


def attacks(found: dict) -> list[str]:
    """The attacks that were run, in the order of the suite."""
    run = {row["attack"] for row in found["rows"]}
    return [name for name in ATTACKS if name in run]


def concepts(found: dict, names: list[str]) -> str:
    """The concepts that these attacks were run on, in words."""
    return ", ".join(sorted({row["concept"] for row in found["rows"] if row["attack"] in names}))


def together(found: dict) -> dict[str, list[str]]:
    """Concepts, in words -> the attacks that were run on just these."""
    groups = {}
    for name in attacks(found):
        groups.setdefault(concepts(found, [name]), []).append(name)
    return groups


def results(found: dict, method: str, attack: str) -> list[dict]:
    """An attack's results on a method, one per concept; none of an empty file."""
    return [row["result"] for row in found.get("rows", []) if (row["method"], row["attack"]) == (method, attack)]


def pool(shares: list[float], counts: list[int]) -> tuple[int, int]:
    """Hits and pictures in all, from the share of hits in [0, 1] and the number of pictures of each part."""
    return round(sum(share * n for share, n in zip(shares, counts))), sum(counts)


def percent(hits: int, total: int) -> tuple[float, float, float]:
    """A share and the ends of Wilson's interval, in percent."""
    return tuple(100 * share for share in (hits / total, *wilson(hits, total)))


def pooled(own: list[dict]) -> tuple[float, float, float]:
    """Success over the pictures of all concepts and its interval, in percent."""
    return percent(*pool([r["success"] for r in own], [r["pictures"] for r in own]))


def rate(own: list[dict]) -> str:
    """Success with its interval; – where the attack was not run."""
    if not own:
        return "–"
    success, low, high = pooled(own)
    return f"{success:.1f} ({low:.0f}–{high:.0f})"


def measured(names: list[str], cells: dict[str, list[str]]) -> str:
    """A table of a cell per attack for each method, less the methods on which none of them was run."""
    return table(["method", *names], [[m, *own] for m, own in cells.items() if {*own} - {"–"}])


def attacks_section(found: dict, summary: dict) -> str:
    """Attack success by method and attack, then how quickly the concept is relearned."""
    mark = lambda m: f"**{title(m)}**" if keeps(m, summary) else title(m)  # noqa: E731
    config = found["protocol"]["attack"]
    left_out = ", ".join(title(m) for m in attackable(summary) if m not in methods(found))
    missing = f" (not yet: {left_out})" if left_out else ""
    parts = [INTRO.format(**config, near=NEAR, forgets=FORGETS, missing=missing)]
    for words, names in together(found).items():
        cells = {mark(m): [rate(results(found, m, n)) for n in names] for m in methods(found)}
        parts += [f"On {words}:", "", measured(names, cells), ""]
    if tuned := [name for name in attacks(found) if name in RELEARNING]:
        looks = ", ".join(str(k) for k in config["relearn_steps"] if k)
        parts += [RECOVERY.format(**config, looks=looks, concepts=concepts(found, tuned)), relearning_table(found), ""]
    return "\n".join([*parts, made_with(found)])


def relearning_table(found: dict) -> str:
    """Steps until half of the pictures show the concept again, per concept."""
    last = max(found["protocol"]["attack"]["relearn_steps"])
    shown = lambda r: f"> {last}" if r["steps_to_half"] is None else str(r["steps_to_half"])  # noqa: E731
    names = [n for n in attacks(found) if n in RELEARNING]
    cells = {title(m): [", ".join(map(shown, results(found, m, n))) or "–" for n in names] for m in methods(found)}
    return measured(names, cells)


def apart(ends: dict[str, float], gap: float) -> dict[str, float]:
    """Heights of labels beside the ends of curves, in their order and at least `gap` apart, from 100 downwards."""
    placed, top = {}, 100.0
    for name in sorted(ends, key=ends.__getitem__, reverse=True):
        placed[name] = top = min(ends[name], top)
        top -= gap
    return placed


def relearning_plot(found: dict, path: Path) -> Path | None:
    """Success against fine-tuning steps on the concept's pictures, mean over concepts; None where it was not run."""
    names = [n for n in attacks(found) if n in RELEARNING[:2]]
    if not names:
        return None
    fig = figure(5.5 * len(names), 4.2)
    axes = fig.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names):
        ends = {}
        for method in methods(found):
            curves = [r["curve"] for r in results(found, method, name)]
            if not curves:
                continue
            steps = [look["step"] for look in curves[0]]
            means = [100 * statistics.fmean(c[k]["success"] for c in curves) for k in range(len(steps))]
            ours = method.startswith("ours")
            colour = GONE if ours else INK if method == BASE else KEPT
            ax.plot(steps, means, color=colour, linewidth=1.8 if ours else 1)
            ends[method] = means[-1]
        for method, y in apart(ends, 4.5).items():
            line = {"arrowstyle": "-", "color": KEPT, "linewidth": 0.4, "relpos": (0, 0.5)}
            ax.annotate(title(method), (steps[-1], ends[method]), xytext=(1.15 * steps[-1], y), fontsize=7, color=INK,
                        va="center", annotation_clip=False, arrowprops=line)  # fmt: skip
        ax.set_title(name, loc="left", fontsize=10, color=INK)
        open_axes(ax, "fine-tuning steps")
    axes[0].set_ylabel("pictures that show the concept, %", color=INK)
    return save(fig, path)
