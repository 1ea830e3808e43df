"""What an erasure costs on 1, 8 and 64 GPUs, computed from the real configurations without any weights.

    python -m eval.scale.scaling                     # writes docs/scaling.md
    python -m eval.scale.scaling --model sd15 --output scaling.md

Floating point operations and saved activations are counted while a model of "meta" tensors runs forward and backward;
nothing is measured but in the last section, which holds the counts against eval/results/scale.json where it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from semu_diffusion.adapter import SemuConfig, moments
from semu_diffusion.adapter.base_layers import matrix_shape
from semu_diffusion.adapter.decompose import choose_method, expected_columns
from semu_diffusion.adapter.model import find_layers
from semu_diffusion.adapter.sketch import Maps
from semu_diffusion.adapter.weights import WEIGHTS
from semu_diffusion.diffusion import EraseConfig
from semu_diffusion.diffusion.families.sampling import ERASING
from semu_diffusion.diffusion.trainer import CHECK_EVERY, HELD_OUT

from ..records import make_parser, read_json, write_text
from .models import CONFIGS, VARIANTS, inputs, make, ranks, restore, shapes

GPUS = (1, 8, 64)
PEAK, SHARE = 989e12, 0.4  # assumed: dense bf16 of an H100 SXM by its data sheet, and how much of it is reached
AT_ONCE = 8  # most records of a step that run together on a GPU; --accumulate does the rest
COLUMNS = 64  # of the gradient's sketches


@dataclass
class Step:
    """Operations and bytes of saved activations of one record's forward and backward, and what is trained."""

    flops: float
    saved: int
    trained: int


def counted(model: nn.Module, call: Callable) -> float:
    """Floating point operations of one forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(model)
    return counter.get_total_flops()


def moments_cost(model: nn.Module, call: Callable) -> tuple[float, int]:
    """Operations of adding one record to the second moments of all inputs, each once, without its forward pass; and
    the bytes of these sums."""
    total, size, layers = 0.0, 0, find_layers(model, SemuConfig())
    watch = moments.Watch(layers)

    def counter(name: str) -> Callable:
        def count(layer: nn.Module, args: tuple, output: torch.Tensor) -> None:
            nonlocal total, size
            m, n = matrix_shape(layer)
            if watch.first_given(name, args[0]) == name:  # q, k and v share what they are given
                total += 2 * output.numel() / m * n * (n if n <= moments.WIDE else 2 * moments.COLUMNS)
                size += 4 * n * (n if n <= moments.WIDE else moments.COLUMNS)

        return count

    handles = [layer.register_forward_hook(counter(name)) for name, layer in layers.items()]
    with torch.no_grad():
        call(model)
    for handle in handles:
        handle.remove()
    return total, size


class Fused(torch.autograd.Function):
    """Attention as fused kernels keep it: its inputs and its output, not the (tokens, tokens) matrix between."""

    @staticmethod
    def forward(ctx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(part) for part in ctx.saved_tensors[:3])


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_, **__) -> torch.Tensor:
    """`F.scaled_dot_product_attention` for counting bytes; meta tensors would take the unfused way."""
    return Fused.apply(query, key, value)


def count_step(model: nn.Module, call: Callable, variant: str, rank: int) -> Step:
    """One training step of a variant on meta tensors; parameters that are saved for the backward are not counted."""
    trained = sum(p.numel() for p in VARIANTS[variant](model, rank))
    held = {id(p.untyped_storage()) for p in model.parameters()}
    known = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known and id(storage) not in held:
            saved[storage._cdata] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        call(model).square().mean().backward()
    with mock.patch.object(F, "scaled_dot_product_attention", fused):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call(model)
    found = Step(counter.get_total_flops(), sum(storage.nbytes() for storage in saved.values()), trained)
    restore(model)
    return found


def basis_flops(layers: dict[str, tuple[int, ...]], rank: int) -> list[float]:
    """Operations of each layer's decomposition, for flat spectra; steep ones take less."""
    costs = []
    for shape in layers.values():
        m, n = sorted((shape[0], int(torch.tensor(shape[1:]).prod())))
        k = expected_columns(m, rank)
        quick = min(4 * m * n * k, m**2 * n + 2 * m**2 * k) + 4 * m * k**2 + 20 * k**3
        own = quick if choose_method(m, n, rank) == "randomized" else m**2 * n + 20 * m**3
        costs.append(own + 2 * m * n * rank)  # the other side of the basis
    return costs


def sketch_bytes(layers: dict[str, tuple[int, ...]]) -> int:
    """fp32 bytes of the gradient's sums, as sketches where those are smaller."""
    maps, total = Maps(COLUMNS), 0
    for shape in layers.values():
        m, n = shape[0], int(torch.tensor(shape[1:]).prod())
        total += maps.size(m, n) if 2 * maps.size(m, n) < m * n else m * n
    return 4 * total


@dataclass
class Model:
    """Everything that the tables need of one model, per record."""

    name: str
    parameters: int
    layers: int
    forward: float
    semu: Step
    full: Step
    lora: Step
    adapter: int
    moments: float
    basis: float
    sketch: int
    largest: float = 0.0  # of the layers' decompositions, which one GPU does
    summed: int = 0  # bytes of the second moments


def describe(name: str, rank: int, **changes) -> Model:
    """Counts one model at batch 1."""
    model = make(name, "meta", **changes)
    call, layers = inputs(name, model, 1, "meta"), shapes(model)
    sides = {k: (shape[0], int(torch.tensor(shape[1:]).prod())) for k, shape in layers.items()}
    adapter = 4 * sum((sum(sides[k]) + r) * r for k, r in ranks(model, rank).items())
    forward, parameters = counted(model, call), sum(p.numel() for p in model.parameters())
    steps = {variant: count_step(model, call, variant, rank) for variant in ("semu", "full", "lora")}
    (flops, summed), costs = moments_cost(model, call), basis_flops(layers, rank)
    sizes = {"adapter": adapter, "moments": flops, "basis": sum(costs), "largest": max(costs), "summed": summed}
    return Model(name, parameters, len(layers), forward, **steps, **sizes, sketch=sketch_bytes(layers))


def most(count: int, gpus: int) -> int:
    """How many of so many a GPU has at most."""
    return -(-count // gpus)


def run_flops(m: Model, config: EraseConfig, gpus: int, batch: int) -> dict[str, float]:
    """Operations of each stage of a whole run, of the GPU that has most to do.

    Three predictions (concept, anchor, empty prompt) a state at most; the gradient needs those of the weights too.
    """
    latents = most(config.latents, gpus) + most(config.keep_latents, gpus)
    checks = config.steps // CHECK_EVERY * most(HELD_OUT, gpus)
    return {
        "latents": 3 * latents * config.sampler_steps * m.forward,
        "gradient": most(config.gradient_records, gpus) * m.full.flops,
        "bases": max(m.basis / gpus, m.largest) + most(config.moment_records, gpus) * (m.forward + m.moments),
        "training": config.steps * 2 * batch / gpus * m.semu.flops + checks * m.forward,
    }


def moved_bytes(m: Model, config: EraseConfig, gpus: int) -> dict[str, float]:
    """Bytes that each GPU sends: a ring's all-reduce of R's gradient per step, and once those of the weights' gradients
    and of the second moments, and its share of the bases to all others."""
    ring = 2 * (gpus - 1) / gpus * 4
    return {"SEMU": ring * m.semu.trained, "LoRA": ring * m.lora.trained, "full": ring * m.full.trained,
            "once": ring * (m.full.trained + m.summed / 4) + (gpus - 1) / gpus * m.adapter}  # fmt: skip


def memory(m: Model, records: int, weight_bytes: int) -> dict[str, float]:
    """Bytes per GPU: weights, adapter or gradients with Adam's moments, saved activations of `records` records."""
    weights, half = weight_bytes * m.parameters, weight_bytes / 4
    return {
        "weights": weights,
        "SEMU": weights + m.adapter + 12 * m.semu.trained + records * m.semu.saved * half,
        "LoRA": weights + 16 * m.lora.trained + records * m.lora.saved * half,
        "full": weights + 12 * m.full.trained + records * m.full.saved * half,
        "gradient, whole": weights + 4 * m.full.trained + m.full.saved * half,
        "gradient, sketched": weights + m.sketch + m.full.saved * half,
    }


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
    models: list[Model], config: EraseConfig, rank: int, batch: int, scale: dict, reach: Sequence[dict] = ()
) -> str:
    """The document.

    Args:
        reach: What `eval.scale.memory` planned.
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
    if "step" in scale:
        out += [*measured(scale), "## Counted and measured", "", *checked(scale), ""]
    return "\n".join(out)


def main() -> None:
    parser = make_parser(__doc__)
    names = [name for name in CONFIGS if name != "tiny"]
    parser.add_argument("--model", action="append", choices=CONFIGS, help=f"default: {', '.join(names)}")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64, help="forgotten, and as many kept, records per step")
    parser.add_argument("--scale", type=Path, default=Path("eval/results/scale.json"), help="what was measured")
    parser.add_argument("--output", type=Path, default=Path("docs/scaling.md"))
    args = parser.parse_args()
    if args.batch % max(GPUS):
        parser.error(f"--batch must be a multiple of {max(GPUS)}")
    scale = read_json(args.scale)
    models = [describe(name, args.rank) for name in args.model or names]
    if not args.model:
        from .memory import plans  # which counts with this module's attention

    text = page(
        models,
        EraseConfig(concept="x", sampler_steps=ERASING),
        args.rank,
        args.batch,
        scale,
        () if args.model else plans(),
    )
    write_text(args.output, text)
    print(args.output)


if __name__ == "__main__":
    main()
