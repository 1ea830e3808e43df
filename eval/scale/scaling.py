"""What an erasure costs on 1, 8 and 64 GPUs, computed from the real configurations without any weights.

    python -m eval.scale.scaling                     # writes docs/scaling.md, and counts.json; ten minutes
    python -m eval.scale.scaling --counted eval/results/counts.json     # the page alone, from what was counted
    python -m eval.scale.scaling --model sd15 --output scaling.md

Floating point operations and saved activations are counted while a model of "meta" tensors runs forward and backward;
nothing is measured but in the last section, which holds the counts against eval/results/scale.json where it exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from semu_diffusion.adapter.weights import WEIGHTS
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.families.sampling import ERASING
from semu_diffusion.versions import versions

from ..records import command, make_parser, read_json, write_json, write_text
from .counting import COLUMNS, Model, Step, describe, memory, moved_bytes, run_flops
from .models import CONFIGS
from .sections import memory_section, time_section

COUNTS = Path("eval/results/counts.json")
GPUS = (1, 8, 64)
PEAK, SHARE = 989e12, 0.4  # assumed: dense bf16 of an H100 SXM by its data sheet, and how much of it is reached
AT_ONCE = 8  # most records of a step that run together on a GPU; --accumulate does the rest


# ------------------------------------------------------------------------------------------------- text


def row(*cells) -> str:
    return f"| {' | '.join(str(c) for c in cells)} |"


def head(*cells) -> list[str]:
    return [row(*cells), row(*("---" for _ in cells))]


def gb(value: float) -> str:
    """Bytes for people."""
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"


def per_record(models: list[Model]) -> list[str]:
    """Counts of one record."""
    lines = head("model", "weights", "layers", "forward", "SEMU step", "LoRA step", "full step", "adapter")
    for m in models:
        times = [f"{step.flops / m.forward:.2f}×" for step in (m.semu, m.lora, m.full)]
        tera = f"{m.forward / 1e12:.2f} TFLOP"
        lines.append(row(m.name, f"{m.parameters / 1e6:,.0f} M", m.layers, tera, *times, gb(m.adapter)))
    return lines


def run_table(models: list[Model], config: EraseConfig, batch: int) -> list[str]:
    """A whole run on each number of GPUs."""
    names = ("PFLOP per GPU", "of it training", "sent once", "sent per step", "LoRA", "full", "assumed time")
    lines = head("model", "GPUs", *names)
    for m in models:
        for n in GPUS:
            flops, sent = run_flops(m, config, n, batch), moved_bytes(m, config, n)
            total, minutes = sum(flops.values()), sum(flops.values()) / (PEAK * SHARE) / 60
            shown = (gb(sent[k]) for k in ("once", "SEMU", "LoRA", "full"))
            share = f"{flops['training'] / total:.0%}"
            lines.append(row(m.name, n, f"{total / 1e15:,.1f}", share, *shown, f"{minutes:.1f} min"))
    return lines


def memory_table(models: list[Model], batch: int) -> list[str]:
    """Memory per GPU, by number of GPUs."""
    kinds = ("weights", "SEMU", "LoRA", "full", "gradient, whole", "gradient, sketched")
    lines = head("model", "GPUs", *kinds)
    for m in models:
        for n in GPUS:
            found = memory(m, min(AT_ONCE, 2 * batch // n), 2)
            lines.append(row(m.name, n, *(gb(found[k]) for k in kinds)))
    return lines


def reach_table(rows: Sequence[dict]) -> list[str]:
    """What `semu erase` with its defaults does on a card, stage by stage, at rank 32 and with all layers."""
    names = ("drawing", "moments", "gradient", "bases", "training", "checks")
    lines = head("model", "stored as", "card", "weights", *names, "chosen")
    for r in rows:
        found = [gb(r["stages"][k]) for k in names] if r["fits"] else ["–"] * len(names)
        lines.append(row(r["name"], r["stored"], f"{r['card']} GB", gb(r["weights"]), *found, r["words"]))
    said = (
        "The planner of `semu erase` (free memory of a GPU, or `--max-memory`) with the defaults, activations in bf16, "
        "5 % of the card left to the allocator, 64 GB of host memory. Each stage: the denoiser, what is summed, and as "
        "many records at a time as fit; text encoders and autoencoder are on the card only while they work. Records "
        "are counted with a model of meta tensors, one and two of them; a run measures them with the model itself."
    )
    return [said, "", *lines]


def checked(scale: dict) -> list[str]:
    """Counts against what was measured: times as multiples of a forward pass, sizes in bytes."""
    step, lines = scale["step"], head("", "counted", "measured")
    m = describe(step["size"], step["rank"], sample_size=step["latents"])
    base = step["seconds"]["forward"]["median"]
    for name, found in (("semu", m.semu), ("lora", m.lora), ("full", m.full)):
        seconds = step["seconds"][name]["median"]
        lines.append(row(f"{name}: step / forward", f"{found.flops / m.forward:.2f}", f"{seconds / base:.2f}"))
        state = m.adapter + 12 * found.trained if name == "semu" else (16 if name == "lora" else 12) * found.trained
        counted_bytes = state + step["batch"] * found.saved
        lines.append(row(f"{name}: extra memory", gb(counted_bytes), gb(step["extra_bytes"][name])))
    if "bytes" in scale and scale["bytes"]["rank"] == step["rank"]:
        lines.append(row("adapter file", gb(m.adapter), gb(scale["bytes"]["adapter"])))
    rate = step["batch"] * m.forward / base
    where = f"{m.name}, latents {step['latents']}², batch {step['batch']}, rank {step['rank']}"
    return [f"{where}: the forward pass ran at {rate / 1e9:,.0f} GFLOP/s.", "", *lines]


def ratio(value: dict[str, float], invert: bool = False) -> str:
    """A median with its spread over the rounds; inverted for what is faster by that factor."""
    low, mid, high = sorted(1 / v if invert else v for v in value.values())
    digits = 1 if invert else 2
    return f"{mid:.{digits}f}× ({low:.{digits}f} to {high:.{digits}f})"


def measured_bases(svd: dict) -> list[str]:
    """The decompositions of all layers' gradients."""
    lines = head("gradients", "SEMU", "published", "exact", "faster than published", "than exact", "energy of exact")
    for kind in ("decaying", "random"):
        found = svd[kind]
        times = [f"{found['seconds'][k]['median']:.1f} s" for k in ("semu", "published", "exact")]
        faster = [ratio(found["semu_over"][k], invert=True) for k in ("published", "exact")]
        energy = (
            f"{found['energy_of_exact']['mean']:.2%}, worst layer {found['energy_of_exact']['worst']['of_exact']:.2%}"
        )
        lines.append(row(kind, *times, *faster, energy))
    share, total = svd["memory"]["extra_share"], gb(svd["memory"]["gradient_bytes"])
    return [
        f"Bases of {svd['layers']} layers, rank at most {svd['rank']}, gamma {svd['gamma']}. \"published\": SVDs per "
        "input channel for convolutions. \"decaying\": the k-th singular value falls as 1/k.", "", *lines, "",
        f"Highest extra memory, projection included: {share:.0%} of the {total} of summed gradients.",
    ]  # fmt: skip


def measured_steps(step: dict) -> list[str]:
    """Training steps, as multiples of SEMU's."""
    names = {"lora": "a PEFT LoRA of the same ranks", "full": "full fine-tuning of the same layers",
             "full with live teacher": "the same with a live teacher",
             "published": "W + U R Vᵀ built in each forward"}  # fmt: skip
    lines = head("SEMU's training step over", "ratio", "extra memory", "of SEMU")
    for name, shown in names.items():
        size = gb(step["extra_bytes"][name]) if name in step["extra_bytes"] else ""
        lines.append(row(shown, ratio(step["semu_over"][name]), size, gb(step["extra_bytes"]["semu"])))
    return [*lines, "", "Extra memory is what a training step takes beyond what a forward pass had taken before."]


def measured_inference(over: dict) -> list[str]:
    """Forward passes, as multiples of each other."""
    lines = head("a forward pass", "over the base", "over LoRA")
    for name, shown in (("semu", "with SEMU"), ("semu merged", "SEMU merged"), ("base again", "the base, once more")):
        lines.append(row(shown, ratio(over[name]["base"]), ratio(over[name]["lora"])))
    return lines


def measured_run(cli: dict) -> str:
    """The one run of the command."""
    return (f"`semu erase` on a whole pipeline of this size with random weights ({cli['latents']}² latents, 3 steps, "
            f"batch 2): {cli['process_seconds']:.0f} s, of it {cli['seconds']:.0f} s erasing; peak memory "
            f"{cli['peak_memory_mb'] / 1e3:.1f} GB; adapter {gb(cli['files'][WEIGHTS])}, "
            f"{cli['trained_percent']:.2f} % trained.")  # fmt: skip


def measured(scale: dict) -> list[str]:
    """What eval/results/scale.json holds."""
    step = scale["step"]
    place = f"{step['machine']['cores']} cores ({step['machine']['processor']}), {step['machine']['threads']} threads"
    out = [
        "## Measured", "",
        f"{step['size']} with random weights, `{step['command']}` and the like; {place}. Medians over rounds in which "
        "all methods take turns, least and most in brackets.", "",
    ]  # fmt: skip
    if "svd" in scale:
        out += [*measured_bases(scale["svd"]), ""]
    out += [*measured_steps(step), ""]
    if "inference" in scale:
        out += [*measured_inference(scale["inference"]["over"]), ""]
    return out + ([measured_run(scale["cli"]), ""] if "cli" in scale else [])


def page(
    models: list[Model],
    config: EraseConfig,
    rank: int,
    batch: int,
    scale: dict,
    reach: Sequence[dict] = (),
    more: Sequence[str] = (),
) -> str:
    """The document.

    Args:
        reach: What `eval.scale.memory` planned.
        more: Lines of other results (`sections`).
    """
    sizes = f"{config.latents} + {config.keep_latents} latents of {config.sampler_steps} sampler steps"
    out = [
        "# What a run costs", "",
        "Written by `eval/scale/scaling.py` from the models' real configurations; no weights are needed. All Linear "
        f"and Conv2d layers, rank {rank}, the model's usual picture size.", "",
        "## One record", "", *per_record(models), "",
        "The last columns are multiples of the forward pass. SEMU and LoRA go back through frozen weights; full "
        "fine-tuning also computes the weights' gradients, and one more forward pass where its teacher is live.", "",
        "## A whole run", "",
        f"`semu erase` with its defaults: {sizes}, the gradient of {config.gradient_records} records, the second "
        f"moments of {config.moment_records}, {config.steps} steps of {batch} forgotten and {batch} kept records over "
        "all GPUs. Drawings, gradient, moments, bases, training and its checks are shared out over the GPUs; the row "
        "counts the one that has most to do. Sent bytes are per GPU: once the sums of gradients and second moments and "
        "the bases (as large as the adapter), and R's gradient in each step, by a ring all-reduce in fp32. "
        "The records that are drawn go to every GPU's host as well.", "",
        f"The time is no measurement: it assumes {SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s (an H100's bf16 peak), and "
        "leaves out encoding the prompts, which every GPU does, and all sending.", "",
        *run_table(models, config, batch), "",
        "## Memory per GPU", "",
        "Weights and activations in bf16, all that is trained, its gradient and Adam's moments in fp32, no gradient "
        f"checkpointing, fused attention, at most {AT_ONCE} records at once (`--accumulate`). \"gradient\" is the pass "
        "for the bases, counted with one record at a time: sums of whole gradients, or sketches of "
        f"{COLUMNS} columns (`--sketch {COLUMNS}`). What `semu erase` plans with is below.", "",
        *memory_table(models, batch), "",
    ]  # fmt: skip
    if reach:
        out += ["## What fits on a card", "", *reach_table(reach), ""]
    out += more
    if "step" in scale:
        out += [*measured(scale), "## Counted and measured", "", *checked(scale), ""]
    return "\n".join(out)


def count(names: Sequence[str], rank: int) -> list[Model]:
    """The models, counted with meta tensors."""
    found = []
    for name in names:
        found.append(describe(name, rank))
        print(f"counted {name}", flush=True)
    return found


def from_file(path: Path, names: Sequence[str], rank: int) -> tuple[list[Model], list[dict]]:
    """What an earlier run counted. SystemExit where the file lacks a model or was made for another rank."""
    found = read_json(path)
    rows = {row["name"]: row for row in found.get("models", [])}
    if found.get("rank") != rank or not {*names} <= {*rows}:
        raise SystemExit(f"error: {path} does not have all these models at rank {rank}; count again without --counted")
    steps = lambda row: {k: Step(**row[k]) for k in ("semu", "full", "lora")}  # noqa: E731
    return [Model(**{**rows[name], **steps(rows[name])}) for name in names], found["plans"]


def others(folder: Path) -> list[str]:
    """What the results files beside scale.json hold of memory and of time, each where it exists."""
    parts = {"memory.json": memory_section, "phases.json": time_section}
    return [line for name, write in parts.items() if (found := read_json(folder / name)) for line in write(found)]


def main() -> None:
    parser = make_parser(__doc__)
    names = [name for name in CONFIGS if name not in ("tiny", "half")]
    parser.add_argument("--model", action="append", choices=CONFIGS, help=f"default: {', '.join(names)}")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="forgotten, and as many kept, records per step")
    parser.add_argument("--scale", type=Path, default=Path("eval/results/scale.json"), help="what was measured")
    parser.add_argument("--counted", type=Path, help=f"such as {COUNTS}: what an earlier run counted, in no time")
    parser.add_argument("--output", type=Path, default=Path("docs/scaling.md"))
    args = parser.parse_args()
    if args.batch % max(GPUS):
        parser.error(f"--batch must be a multiple of {max(GPUS)}")
    scale, config = read_json(args.scale), EraseConfig(concept="x", sampler_steps=ERASING)
    if args.counted:
        models, reach = from_file(args.counted, args.model or names, args.rank)
    elif args.model:
        models, reach = count(args.model, args.rank), []
    else:
        from .memory import plans  # which counts with this module's attention

        models, reach = count(names, args.rank), plans()
        head = {"command": command(), "versions": versions(), "rank": args.rank}
        write_json(COUNTS, {**head, "models": [asdict(m) for m in models], "plans": reach})
    more = others(args.scale.parent)
    write_text(args.output, page(models, config, args.rank, args.batch, scale, () if args.model else reach, more))
    print(args.output)


if __name__ == "__main__":
    main()
