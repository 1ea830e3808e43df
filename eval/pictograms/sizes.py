"""What the size of an adapter's file costs in scores: erases concepts of the embedded model, and truncates and rounds.

    python -m eval.pictograms.sizes                            # into eval/results/sizes.json
    python -m eval.pictograms.sizes --concept knife --output sizes.json

Each concept is erased once per way; training is the same for all of them, bit by bit. Rows stay in the results file,
so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from ..processes import as_done
from ..records import add_set, command, machine, make_parser, resolved, resumed, write_json
from .each import CONCEPTS, erase_and_score

WAYS = {"all of it": (1.0, "fp32"), "truncated": (0.9, "fp16"), "default": (0.9, "int8")}  # compress, precision
SCORES = ("UA", "IRA", "CRA", "neighbours", "natural")


def row_of(concept: str, way: str, options: dict, seeds: int) -> dict:
    """One adapter: what it scores, the bytes of its files, and its ranks by layer."""
    from semu_diffusion.adapter.weights import LORA, WEIGHTS, read_config

    compress, precision = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        own = {**options, "compress": compress, "precision": precision}
        report = erase_and_score(concept, own, seeds, 1, Path(folder))
        made = Path(folder) / concept.replace(" ", "-")
        sizes = {name: (made / name).stat().st_size for name in (WEIGHTS, LORA)}
        ranks = read_config(made).ranks
    training = {k: report["training"][k] for k in ("steps", "trained_percent")}
    scores = {side: {k: report[side].get(k) for k in SCORES} for side in ("base", "erased")}
    return {"concept": concept, "way": way, **scores, **training, "bytes": sizes, "ranks": ranks}


def at_sd15(rows: list[dict]) -> dict[str, float]:
    """Way -> bytes of U, R and V for Stable Diffusion 1.5's UNet, as a share of its weights in fp16.

    Each of its layers has the mean rank of the embedded model's layers of that kind; where there is none, of all.
    """
    from semu_diffusion.adapter import SemuConfig, find_layers
    from semu_diffusion.adapter.base_layers import matrix_shape
    from semu_diffusion.adapter.updates import STORED

    from ..scale.models import make

    unet = make("sd15", "meta")
    shapes = {name: matrix_shape(layer) for name, layer in find_layers(unet, SemuConfig()).items()}
    whole, shares = 2 * sum(p.numel() for p in unet.parameters()), {}
    for way in dict.fromkeys(row["way"] for row in rows):
        ranks, width = {}, STORED[WAYS[way][1]].itemsize
        for name, r in ((n, r) for row in rows if row["way"] == way for n, r in row["ranks"].items()):
            ranks.setdefault(kind(name), []).append(r)
        usual = statistics.fmean(r for own in ranks.values() for r in own)
        mean = {name: min(statistics.fmean(ranks.get(kind(name), [usual])), *shapes[name]) for name in shapes}
        shares[way] = sum(width * r * sum(shapes[name]) + 4 * r * r for name, r in mean.items()) / whole
    return shares


def kind(name: str) -> str:
    """What a layer of a UNet does, whatever its block."""
    words = ("attn1", "attn2", "ff", "time_emb", "proj", "shortcut", "samplers", "conv")
    return next((word for word in words if word in name), "other")


def summary(rows: list[dict]) -> dict:
    """By way: mean scores, and the largest file; SD 1.5's share."""
    found, shares = {}, at_sd15(rows)
    for way, share in shares.items():
        own = [row for row in rows if row["way"] == way]
        means = {
            k: statistics.fmean(v) for k in SCORES if (v := [r["erased"][k] for r in own if r["erased"][k] is not None])
        }
        most = {name: max(r["bytes"][name] for r in own) for name in own[0]["bytes"]}
        found[way] = {"concepts": len(own), **means, "bytes": most, "sd15_share": share}
    return found


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--concept", action="append", choices=CONCEPTS, metavar="C", help="this one (repeatable)")
    add_set(parser)
    parser.add_argument("--seeds", type=int, default=6, help="pictures per forgotten prompt")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="adapters at a time")
    parser.add_argument("--output", type=Path, default=Path("eval/results/sizes.json"))
    return parser.parse_args()


def main() -> None:
    from semu_diffusion.diffusion.pipeline import model_path
    from semu_diffusion.versions import versions

    args = parse_args()
    options, unet = dict(args.set), Path(model_path("pictograms")) / "unet"
    head = {"command": command(), "options": resolved(options), "seeds_forget": args.seeds, "versions": versions(),
            "machine": machine(workers=args.workers, threads=1),
            "unet_bytes": sum(file.stat().st_size for file in unet.glob("*.safetensors"))}  # fmt: skip
    rows = resumed(args.output, head, ("options", "seeds_forget")).get("rows", [])
    done = {(row["concept"], row["way"]) for row in rows}
    concepts = args.concept or ("guitar", "dog", "apple", "neon style")
    jobs = [(c, w, options, args.seeds) for c in concepts for w in WAYS if (c, w) not in done]
    for _, row in as_done(row_of, jobs, args.workers):
        rows = sorted([*rows, row], key=lambda r: (CONCEPTS.index(r["concept"]), list(WAYS).index(r["way"])))
        write_json(args.output, {**head, "summary": summary(rows), "rows": rows})
        scores = "  ".join(f"{k} {row['erased'][k]:.1f}" for k in SCORES if row["erased"][k] is not None)
        print(f"{row['concept']:<12} {row['way']:<10} {scores}  {row['bytes']}", flush=True)


if __name__ == "__main__":
    main()
