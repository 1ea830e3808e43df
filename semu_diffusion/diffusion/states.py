"""The training data, drawn by the model itself: states x_t on its own trajectories, with its own predictions there.

Guided sampling computes the frozen model's predictions for a prompt and for the empty prompt at every step anyway, so
a recorded trajectory is a teacher that costs nothing at training time. No picture of the training set is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open

from ..adapter.weights import save_atomic
from .concepts import Pair
from .families import StableDiffusion

FORGET, KEEP, ANCHOR, EMPTY, REMAIN = range(5)  # kinds of records


@dataclass
class States:
    """Records for training: where (x, t), under which prompt, and what the frozen model says there.

    x (N, C, H, W); t (N,); prompt (N,) rows of `contexts`; kind (N,); concept, anchor, empty (N, C, H, W):
    predictions for the record's own prompt, its anchor and "". contexts (P, tokens, width).
    """

    x: torch.Tensor
    t: torch.Tensor
    prompt: torch.Tensor
    kind: torch.Tensor
    concept: torch.Tensor
    anchor: torch.Tensor
    empty: torch.Tensor
    contexts: torch.Tensor

    def of_kind(self, *kinds: int) -> torch.Tensor:
        """Indices of the records of these kinds."""
        return torch.isin(self.kind, torch.tensor(kinds)).nonzero().flatten()

    def save(self, path: Path, key: str) -> None:
        """Writes everything to one safetensors file, with the key that tells what it was made from."""
        save_atomic({f.name: getattr(self, f.name) for f in fields(self)}, path, {"key": key})

    @classmethod
    def load(cls, path: Path, key: str) -> States | None:
        """The states of a file, or None where there is none, or one made from something else."""
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return cls(**{f.name: file.get_tensor(f.name) for f in fields(cls)})


def fingerprint(**facts) -> str:
    """A key that changes with any of the facts that states are made from."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Contexts:
    """Encodes each prompt once and hands out row numbers."""

    def __init__(self, family: StableDiffusion, prompts: list[str]):
        self.rows = {p: i for i, p in enumerate(dict.fromkeys(["", *prompts]))}
        self.values = family.encode(list(self.rows))

    def __getitem__(self, prompts: list[str]) -> torch.Tensor:
        return torch.tensor([self.rows[p] for p in prompts])


@torch.no_grad()
def trajectory(
    family: StableDiffusion,
    contexts: Contexts,
    prompts: list[str],
    anchors: list[str],
    steer: list[bool],
    steps: int,
    guidance: float,
    generator: torch.Generator,
) -> list[dict[str, torch.Tensor]]:
    """Draws one latent per prompt with guided DDIM and records each of its states with three predictions.

    Args:
        steer: True where the trajectory follows the prompt, False where it follows the anchor: once the concept is
            gone, the prompt leads through the anchor's states, so forgetting has to hold there too.
        steps: Sampler steps; their times are shifted at random per latent, so that all of [0, 1000) is met.
    """
    device, values = family.model.device, contexts.values
    rows, other = contexts[prompts], contexts[anchors]
    c, a, e = values[rows], values[other], values[contexts[[""] * len(rows)]]
    follow = torch.tensor(steer, device=device)[:, None, None, None]
    x = torch.randn(len(rows), *family.latent_shape, generator=generator).to(device, c.dtype)
    shift = torch.rand(len(rows), generator=generator)
    times = [((k + shift) / steps * len(family.alphas)).long().to(device) for k in reversed(range(steps))]
    records = []
    for t, s in zip(times, [*times[1:], torch.full_like(times[0], -1)], strict=True):
        concept, anchor, empty = predict_distinct(family, x, t, (c, a, e), (rows, other, torch.zeros_like(rows)))
        records.append(
            {"x": x, "t": t, "prompt": rows, "other": other, "concept": concept, "anchor": anchor, "empty": empty}
        )
        guided = empty + guidance * (torch.where(follow, concept, anchor) - empty)
        x = family.step(x.float(), guided.float(), t, s).to(c.dtype)
    return records


def predict_distinct(family, x, t, contexts: tuple, rows: tuple) -> list[torch.Tensor]:
    """Predictions of a batch under several contexts; those that are the same for the whole batch run once."""
    distinct = {tuple(r.tolist()): i for i, r in reversed(list(enumerate(rows)))}
    run = sorted(distinct.values())
    parts = family.predict(x.repeat(len(run), 1, 1, 1), t.repeat(len(run)), torch.cat([contexts[i] for i in run]))
    found = dict(zip(run, parts.chunk(len(run)), strict=True))
    return [found[distinct[tuple(r.tolist())]] for r in rows]


@torch.no_grad()
def noised_images(
    family: StableDiffusion,
    contexts: Contexts,
    latents: torch.Tensor,
    pair: Pair,
    steps: int,
    generator: torch.Generator,
) -> list[dict[str, torch.Tensor]]:
    """The same records from given pictures: their latents (N, C, H, W) noised to `steps` random times each."""
    device, values, n = family.model.device, contexts.values, len(latents)
    rows, other = contexts[[pair.prompt] * n], contexts[[pair.anchor] * n]
    c, a, e = values[rows], values[other], values[contexts[[""] * n]]
    records = []
    for k in range(steps):
        t = ((k + torch.rand(n, generator=generator)) / steps * len(family.alphas)).long().to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device, latents.dtype)
        x = family.noised(latents, noise, t).to(c.dtype)
        concept, anchor, empty = predict_distinct(family, x, t, (c, a, e), (rows, other, torch.zeros_like(rows)))
        truth = family.truth(latents, noise, t)
        records.append(
            {
                "x": x,
                "t": t,
                "prompt": rows,
                "other": other,
                "concept": concept,
                "anchor": anchor,
                "empty": empty,
                "truth": truth,
            }
        )
    return records


def draw_records(
    family: StableDiffusion,
    contexts: Contexts,
    pairs: list[Pair],
    steer: list[bool],
    steps: int,
    guidance: float,
    seed: int,
    batch_size: int,
    progress: Callable[[int], None],
) -> list[dict[str, torch.Tensor]]:
    """`trajectory` over all pairs in batches; one generator per batch, so that the batch number fixes its noise."""
    records = []
    for start in range(0, len(pairs), batch_size):
        part, generator = pairs[start : start + batch_size], torch.Generator().manual_seed(seed + start)
        records += trajectory(family, contexts, [p.prompt for p in part], [p.anchor for p in part],
                              steer[start : start + batch_size], steps, guidance, generator)  # fmt: skip
        progress(len(part))
    return records


def gather(forget: list[dict], keep: list[dict], remain: list[dict], contexts: Contexts) -> States:
    """One table of all records.

    A trajectory of the concept also tells what must stay on it: the answers to the anchor and to the empty prompt.
    """
    rows: list[tuple[dict, int, torch.Tensor, torch.Tensor]] = []  # (record, kind, prompt, own prediction)
    for r in forget:
        zero = torch.zeros_like(r["prompt"])
        rows += [(r, FORGET, r["prompt"], r["concept"]), (r, EMPTY, zero, r["empty"])]
        if (r["other"] != 0).any():
            rows.append((r, ANCHOR, r["other"], r["anchor"]))
    for r in keep:
        rows += [(r, KEEP, r["prompt"], r["concept"]), (r, EMPTY, torch.zeros_like(r["prompt"]), r["empty"])]
    rows += [(r, REMAIN, r["prompt"], r["truth"]) for r in remain]
    cat = lambda parts: torch.cat([p.detach().cpu() for p in parts])  # noqa: E731
    return States(
        x=cat(r["x"] for r, *_ in rows),
        t=cat(r["t"] for r, *_ in rows),
        prompt=cat(prompt for *_, prompt, _ in rows),
        kind=torch.cat([torch.full((len(r["t"]),), kind) for r, kind, *_ in rows]),
        concept=cat(own for *_, own in rows),
        anchor=cat(r["anchor"] for r, *_ in rows),
        empty=cat(r["empty"] for r, *_ in rows),
        contexts=contexts.values.cpu(),
    )
