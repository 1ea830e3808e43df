"""Writes what the oracle sees in two pictures of every object in every style, drawn by the embedded model.

    python scripts/pictograms_references.py

`natural` in evaluations of that model is closeness to these (`semu_diffusion.evaluation.proper`), so that no evaluation
has to draw them again. To be run again whenever the model or its oracle changes.
"""

from __future__ import annotations

import torch

from semu_diffusion.adapter.weights import save_atomic
from semu_diffusion.diffusion import draw, load_pipeline
from semu_diffusion.evaluation.pictures import as_saved
from semu_diffusion.evaluation.proper import REFERENCES, looks
from semu_diffusion.evaluation.suites.pictograms import GUIDANCE, SAMPLER_STEPS
from semu_diffusion.pictograms import OBJECTS, STYLES, caption, load_oracle

SEED = 70_000_000  # far from those of training and of the evaluations' grid


def main() -> None:
    torch.set_num_threads(1)
    prompts = [caption(obj, style) for obj in OBJECTS for style in STYLES] * 2
    seeds = [SEED + k for k in range(len(prompts))]
    images = as_saved(draw(load_pipeline("pictograms"), prompts, seeds, SAMPLER_STEPS, GUIDANCE))
    seen = looks(images, load_oracle())
    tensors = {"features": seen["object"].features.half(), "sure": seen["object"].sure, "rough": seen["object"].rough}
    tensors |= {kind: own.named.byte() for kind, own in seen.items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_atomic(tensors, REFERENCES, {"steps": str(SAMPLER_STEPS), "guidance": str(GUIDANCE), "seed": str(SEED)})
    print(f"{REFERENCES}: {len(images)} pictures, {REFERENCES.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
