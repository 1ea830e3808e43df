"""UA in wordings that no training saw, as the suite `wordings` counts it, for edits without an adapter."""

from __future__ import annotations

from collections.abc import Callable

import torch

from semu_diffusion.diffusion.concepts import kind_of, vocabulary_of
from semu_diffusion.diffusion.pipeline import base_name, model_path
from semu_diffusion.evaluation.proper import KINDS, looks
from semu_diffusion.evaluation.suites.wordings import SEED, of_wording
from semu_diffusion.evaluation.wordings import tokenizers_of, wordings

Draw = Callable[[list[str], list[int]], torch.Tensor]  # prompts and seeds -> images (N, 3, H, W) in [0, 1]


def unseen(pipe, concept: str, base: Draw, edited: Draw, oracle, cache: dict) -> float | None:
    """% of pictures in which the concept is not recognised, over wordings that the base model draws; None without any.

    Args:
        cache: Keeps what the base model draws, by concept.
    """
    words = vocabulary_of(model_path(base_name(pipe)))
    asked, _ = wordings(concept, words, tokenizers_of(pipe))
    kind = "style" if kind_of(concept, words) == "style" else "object"
    prompts, seeds = [w.prompt for w in asked], [SEED + 1000 * k for k in range(len(asked))]

    def named(draw: Draw) -> list[str]:
        return [KINDS[kind][k] for k in looks(draw(prompts, seeds), oracle)[kind].named.tolist()]

    if ("unseen", concept) not in cache:
        cache["unseen", concept] = named(base)
    rows = [{"label": w.label, "group": w.group, "named": now, "named_before": before}
            for w, now, before in zip(asked, named(edited), cache["unseen", concept])]  # fmt: skip
    groups = [[row for row in rows if row["group"] == group] for group in dict.fromkeys(w.group for w in asked)]
    counted = [row for own in groups if of_wording(own)["counts"] for row in own]
    return of_wording(counted)["UA"] if counted else None
