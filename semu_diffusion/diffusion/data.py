"""The states of an erasure: drawn once by the model itself, from pictures where they are given, and cached."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from accelerate import Accelerator

from ..adapter.claims import check_space
from ..callbacks import Callback
from .concepts import Pair
from .config import EraseConfig
from .families import Family
from .given import given_pictures
from .pipeline import base_name
from .states import Contexts, States, draw_records, fingerprint, gather, noised_images

BATCH = 32  # latents whose noise is drawn together


def make_states(
    family: Family,
    config: EraseConfig,
    pairs: list[Pair],
    keep: list[str],
    work: Path | None,
    accelerator: Accelerator,
    callback: Callback,
    at_once: int = BATCH,
) -> States:
    """Draws the records, each process its share, or loads those of an earlier run; the first one reads and writes."""
    forget = spread(pairs, config.latents, config.seed)
    kept = [keep[k % len(keep)] for k in range(config.keep_latents)]
    kept = [Pair(p, p if family.empty is None else family.empty) for p in kept]
    made_of = {"forget": [vars(p) for p in forget], "kept": [p.prompt for p in kept], "config": config.to_dict()}
    key, file = fingerprint(model=base_name(family.pipe), **made_of), work and work / "states.safetensors"
    writes = file and accelerator.is_main_process
    states = States.for_all(kept_states(file, key, callback) if writes else None, family.ranks)
    if states is None:
        if writes:
            check_space(work, states_bytes(family, config), "what the model draws to learn from")
        with accelerator.autocast():
            states = draw_states(family, config, pairs, forget, kept, callback, at_once)
        if writes:
            states.save(file, key)
    return states


def kept_states(file: Path, key: str, callback: Callback) -> States | None:
    """`States.load`; a damaged file is said, and drawn again."""
    try:
        return States.load(file, key)
    except ValueError as error:
        callback.warn(f"{error}; drawing the states again")
        return None


def draw_states(
    family: Family,
    config: EraseConfig,
    pairs: list[Pair],
    forget: list[Pair],
    kept: list[Pair],
    callback: Callback,
    at_once: int = BATCH,
) -> States:
    """Every second forgotten latent follows its prompt, the others its anchor; kept ones follow their prompts."""
    callback.stage("forget latents", len(forget) + len(kept))
    shown = given_pictures(family, config, pairs, callback)
    if not family.draws and not all(own for _, own in shown):
        raise ValueError("this model goes on from pictures: give --forget-images and --retain-images")
    every = (*forget, *kept, *(pair for _, own in shown for pair in own))
    contexts = Contexts(family, [p for pair in every for p in (pair.prompt, pair.anchor)], config.guidance)

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

    def given(latents: torch.Tensor, own: list[Pair]) -> list[dict]:
        generator, records = torch.Generator().manual_seed(config.seed), []
        for k in range(0, len(own), BATCH):
            part = slice(k, k + BATCH)
            records += noised_images(
                family, contexts, latents[part], own[part], config.sampler_steps, generator, at_once
            )
        return records

    if not family.draws:
        return gather(given(*shown[0]), given(*shown[1]), [], contexts)
    records = drawn(forget, [k % 2 == 0 for k in range(len(forget))], config.seed)
    others = drawn(kept, [True] * len(kept), config.seed + 10**6)
    return gather(records + given(*shown[0]), others, given(*shown[1]), contexts)


def states_bytes(family: Family, config: EraseConfig) -> int:
    """Of the states' file, about: a latent's state and three predictions, at most three records per sampler step."""
    latents = 3 * config.latents + 2 * config.keep_latents
    return 4 * 4 * math.prod(family.latent_shape) * config.sampler_steps * latents


def spread(pairs: list[Pair], count: int, seed: int) -> list[Pair]:
    """`count` pairs, each about equally often, in a random order that the seed fixes."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    return [pairs[order[k % len(order)]] for k in range(count)]
