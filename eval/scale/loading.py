"""Peak host memory of loading a pipeline, over the size of its files: one in bf16 of the asked size is written
first and removed afterwards.

    python -m eval.scale.loading --size 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

MEASURE = """
import sys, time
from diffusers import StableDiffusionXLPipeline
from semu_diffusion import load_pipeline
from semu_diffusion.diffusion.families import family_of

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

before, started = status("VmRSS"), time.time()
pipe = load_pipeline(sys.argv[1], "cpu", dtype=sys.argv[2])
seconds = time.time() - started
for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
    for weight in part.parameters():
        weight.sum()  # files are mapped, and come into memory as they are read
print(status("VmHWM") - before, seconds)
"""


def build(folder: Path, size: float) -> int:
    """Writes an SDXL of about `size` GB in bf16, in shards; returns the bytes of its files."""
    from diffusers import UNet2DConditionModel

    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from tiny_families import sdxl

    pipe, width = sdxl(folder), 32 * round((size * 1e9 / 2564) ** 0.5 / 32)
    config = {**pipe.unet.config, "block_out_channels": (width, 2 * width), "norm_num_groups": 32}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{k: v for k, v in config.items() if not k.startswith("_")})
    unet = unet.to(torch.bfloat16).to_empty(device="cpu")
    for weight in unet.parameters():
        weight.data.zero_()
    pipe.register_modules(unet=unet)
    for part in (pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        part.to(torch.bfloat16)
    pipe.save_pretrained(folder, max_shard_size="500MB")
    return sum(f.stat().st_size for f in folder.rglob("*.safetensors"))


def measure(folder: Path, dtype: str) -> dict:
    """Peak resident memory of a fresh process above what it had before it loaded, in bytes, and seconds."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), dtype], capture_output=True, text=True, check=True
    )
    peak, seconds = map(float, done.stdout.split()[-2:])
    return {"dtype": dtype, "peak": peak, "seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=2.0, help="GB of the pipeline")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = build(Path(folder), args.size)
        for dtype in ("bf16", "fp32"):
            row = measure(Path(folder), dtype)
            print(json.dumps({"files": size, **row, "peak_over_files": round(row["peak"] / size, 3)}), flush=True)


if __name__ == "__main__":
    main()
