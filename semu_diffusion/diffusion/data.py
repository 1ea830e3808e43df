"""The states of an erasure: drawn once by the model itself, from pictures where they are given, and cached."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from ..callbacks import Callback
from .concepts import Pair, Vocabulary
from .config import EraseConfig
from .families import Family
from .states import Contexts, States, draw_records, fingerprint, gather, noised_images

BATCH = 32  # latents whose noise is drawn together


def make_states(
    family: Family,
    config: EraseConfig,
    pairs: list[Pair],
    vocabulary: Vocabulary,
    work: Path | None,
    accelerator: Accelerator,
    callback: Callback,
    at_once: int = BATCH,
) -> States:
    """Draws the records, or loads those of an earlier run; one process draws, the others read its file."""
    keep = config.keep or family.keep(config.concept, vocabulary, config.keep_latents, config.seed)
    forget = spread(pairs, config.latents, config.seed)
    kept = [keep[k % len(keep)] for k in range(config.keep_latents)]
    kept = [Pair(p, p if family.empty is None else family.empty) for p in kept]
    key = fingerprint(forget=[vars(p) for p in forget], kept=[p.prompt for p in kept], config=config.to_dict())
    with accelerator.main_process_first(), accelerator.autocast():
        states = States.load(work / "states.safetensors", key) if work else None
        if states is None:
            states = draw_states(family, config, forget, kept, callback, at_once)
            if work and accelerator.is_main_process:
                states.save(work / "states.safetensors", key)
    return states


def draw_states(
    family: Family,
    config: EraseConfig,
    forget: list[Pair],
    kept: list[Pair],
    callback: Callback,
    at_once: int = BATCH,
) -> States:
    """Every second forgotten latent follows its prompt, the others its anchor; kept ones follow their prompts."""
    callback.stage("forget latents", len(forget) + len(kept))
    pictures = [load_images(source, family) for source in (config.forget_images, config.retain_images)]
    contexts = Contexts(family, [p for pair in (*forget, *kept) for p in (pair.prompt, pair.anchor)], config.guidance)

    def drawn(pairs: list[Pair], steer: list[bool], seed: int) -> list[dict]:
        return draw_records(
            family,
            contexts,
            pairs,
            steer,
            config.sampler_steps,
            config.guidance,
            seed,
            BATCH,
            callback.advance,
            at_once,
        )

    def given(latents: torch.Tensor | None, pair: Pair) -> list[dict]:
        generator = torch.Generator().manual_seed(config.seed)
        return (
            []
            if latents is None
            else noised_images(family, contexts, latents, pair, config.sampler_steps, generator, at_once)
        )

    records = drawn(forget, [k % 2 == 0 for k in range(len(forget))], config.seed)
    others = drawn(kept, [True] * len(kept), config.seed + 10**6)
    return gather(records + given(pictures[0], forget[0]), others, given(pictures[1], kept[0]), contexts)


def spread(pairs: list[Pair], count: int, seed: int) -> list[Pair]:
    """`count` pairs, each about equally often, in a random order that the seed fixes."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    return [pairs[order[k % len(order)]] for k in range(count)]


def load_images(source: str | None, family: Family) -> torch.Tensor | None:
    """Latents of a folder of pictures or of a `datasets` name. ValueError where there are none."""
    if source is None:
        return None
    import numpy as np
    from PIL import Image

    if Path(source).is_dir():
        files = sorted(f for f in Path(source).iterdir() if f.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        pictures = [Image.open(f) for f in files]
    else:
        try:
            from datasets import load_dataset
        except ImportError:
            raise ValueError("a dataset name needs the datasets package: pip install 'semu-diffusion[data]'") from None
        pictures = [row["image"] for row in load_dataset(source, split="train")]
    if not pictures:
        raise ValueError(f"no pictures in {source}: expected .png, .jpg or .webp files")
    height, width = family.image_size
    arrays = [np.asarray(p.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)) for p in pictures]
    return family.encode_images(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255)
