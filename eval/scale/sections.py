"""The parts of docs/scaling.md that say what was measured of memory and time, from their results files."""

from __future__ import annotations

from semu_diffusion.diffusion.concepts.language import series

from ..markdown import table

STAGES = ("drawing", "moments", "gradient", "bases", "training", "checks")
PHASES = ("load", "plan", "drawing", "moments", "gradient", "bases", "training", "checks", "truncate", "write", "rest")
NAMED = {"tiny": "tiny", "pictograms": "the embedded model", "half": "SD1.5 with half the channels", "sd15": "SD1.5"}


def size_of(value: float) -> str:
    """Bytes for people."""
    return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"


def memory_section(found: dict) -> list[str]:
    """Estimate and measure of each size, stage by stage, and of the whole run."""
    rows = []
    for row in found["rows"]:
        stages = [f"{s['ratio']:.2f}" if (s := row["stages"].get(k)) else "–" for k in STAGES]
        sizes = [size_of(row["peak"][k]) for k in ("estimate", "measured")]
        named = f"{NAMED[row['model']]}, {row['parameters'] / 1e6:,.1f} M, latents {row['latents']}²"
        rows.append([named, *stages, *sizes, f"{row['peak']['ratio']:.2f}"])
    commands = ", ".join(dict.fromkeys(f"`{row['command']}`" for row in found["rows"]))
    return [
        "## Estimated and measured memory", "",
        "What `semu erase` plans with against what torch's allocator gave out on a CPU in fp32, beyond the models "
        "themselves, over the whole of each stage: estimate over measure, and the highest of all stages. Few records; "
        f"{commands}.", "",
        table(["model", *STAGES, "estimated peak", "measured", "ratio"], rows), "",
    ]  # fmt: skip


def time_section(found: dict) -> list[str]:
    """Phases of an erasure, the others' of as many evaluations, what is warm-up, and the ways to take a step."""
    out = ["## Where the time goes", "",
           "Seconds of one thread of a CPU, of the process itself; no GPU was at hand, so the column \"assumed time\" "
           "above has no measured one beside it.", ""]  # fmt: skip
    for size, run in found.items():
        out += [*phases_table(size, run), "", warm_up(run["rows"]["ours"]), ""]
        if "step_ways" in run:
            out += [step_ways(run["step_ways"]), ""]
    return out


def phases_table(size: str, run: dict) -> list[str]:
    """One size: SEMU's phases and the others', in seconds."""
    shown = [k for k in PHASES if any(k in row["phases"] for row in run["rows"].values())]
    rows = []
    for name, row in run["rows"].items():
        cells = [f"{row['phases'][k]:.1f}" if k in row["phases"] else "–" for k in shown]
        rows.append([f"`semu erase` ({row['steps']} steps)" if name == "ours" else name, str(row["evaluations"]),
                     *cells, f"{row['seconds']:.1f}"])  # fmt: skip
    options = ", ".join(f"{k} {v:g}" for k, v in run["options"].items())
    title = f"{NAMED[size]}, latents {run['latents']}² ({options}; others as by default): `{run['command']}`."
    return [title[0].upper() + title[1:], "", table(["", "evaluations", *shown, "all"], rows)]


def warm_up(ours: dict) -> str:
    """What the first calls took beyond later ones."""
    forward, step = ours["warm_up"]["forward"], ours["warm_up"]["first step"]
    return (
        f"Of `semu erase`'s {ours['seconds']:.1f} s, the first forward pass of each of {forward['shapes']} shapes took "
        f"{forward['seconds']:.1f} s beyond later ones, and the first training step {step:.1f} s; a step takes "
        f"{ours['step']:.2f} s."
    )


def step_ways(found: dict) -> str:
    """bf16 autocast and channels last, against fp32."""
    over = {name: 1 / value["median"] for name, value in found["fp32_over"].items()}
    said = series([f"{value:.2f} of fp32's time with {name}" for name, value in over.items()])
    return f"A training step of {found['batch']} records with an adapter takes {said}, medians of turns."
