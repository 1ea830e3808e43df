"""The training data, drawn by the model itself: states x_t on its own trajectories, with its own predictions there.

Guided sampling computes the frozen model's predictions for a prompt and for the empty prompt at every step anyway, so
a recorded trajectory is a teacher that costs nothing at training time. No picture of the training set is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..adapter.sealed import load_sealed, save_sealed
from .concepts import Pair
from .families import Conditions, Family, Own, Spread, beside, join, moved, repeated, select

FORGET, KEEP, ANCHOR, EMPTY, REMAIN = range(5)  # kinds of records


@dataclass
class States:
    """Records for training: where (x, t), under which prompt, and what the frozen model says there.

    x (N, C, H, W); t (N,); prompt (N,) rows of `contexts`; kind (N,); concept, anchor, empty (N, C, H, W):
    predictions for the record's own prompt, its anchor and "" (the own prompt's, where the model knows no empty one).
    shown (N,): how far x has come on the way to a picture of the concept, in [0, 1]; 0 where it leads to others.
    contexts: what the P prompts became for the model, each tensor (P, ...).
    """

    x: torch.Tensor
    t: torch.Tensor
    prompt: torch.Tensor
    kind: torch.Tensor
    concept: torch.Tensor
    anchor: torch.Tensor
    empty: torch.Tensor
    shown: torch.Tensor
    contexts: Conditions

    def of_kind(self, *kinds: int) -> torch.Tensor:
        """Indices of the records of these kinds."""
        return torch.isin(self.kind, torch.tensor(kinds)).nonzero().flatten()

    def save(self, path: Path, key: str) -> None:
        """Writes everything to one safetensors file, with the key that tells what it was made from."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "contexts"}
        tensors |= {f"contexts.{name}": value for name, value in self.contexts.items()}
        save_sealed(tensors, path, {"key": key})

    @classmethod
    def load(cls, path: Path, key: str) -> States | None:
        """The states of a file, or None where there is none, or one made from something else.

        Raises:
            ValueError: the file is damaged.
        """
        if not path.is_file():
            return None
        tensors, facts = load_sealed(path)
        if facts.get("key") != key:
            return None
        contexts = {k.removeprefix("contexts."): tensors.pop(k) for k in list(tensors) if k.startswith("contexts.")}
        return cls(**tensors, contexts=contexts)


def fingerprint(**facts) -> str:
    """A key that changes with any of the facts that states are made from."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Contexts:
    """Encodes each prompt once and hands out row numbers; the empty prompt is row 0 where the model knows one."""

    def __init__(self, family: Family, prompts: list[str], guidance: float = 3.5):
        first = [] if family.empty is None else [family.empty]
        self.empty = first[0] if first else None
        self.rows = {p: i for i, p in enumerate(dict.fromkeys([*first, *prompts]))}
        self.values = family.encode(list(self.rows), guidance)

    def __getitem__(self, prompts: list[str]) -> torch.Tensor:
        return torch.tensor([self.rows[p] for p in prompts])

    def empties(self, rows: torch.Tensor) -> torch.Tensor:
        """The empty prompt's row as often as there are rows (N,); the rows themselves where there is none."""
        return rows if self.empty is None else self[[self.empty]].repeat(len(rows))


class Asked:
    """What a model is asked at records: prompts, their anchors and the empty prompt, by row and as conditions."""

    def __init__(self, family: Family, contexts: Contexts, prompts: list[str], anchors: list[str], at_once: int | None):
        self.family, self.at_once = family, at_once
        self.prompts, self.anchors = contexts[prompts], contexts[anchors]
        self.rows = (self.prompts, self.anchors, contexts.empties(self.prompts))
        self.values = tuple(select(contexts.values, r) for r in self.rows)

    def record(self, x: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
        """Latents x (B, C, H, W) at times t (B,) with the three predictions."""
        parts = predict_parts(self.family, x, t, self.values, self.rows, self.at_once)
        answers = dict(zip(("concept", "anchor", "empty"), parts, strict=True))
        return {"x": x, "t": t, "prompt": self.prompts, "other": self.anchors, **answers}


@torch.no_grad()
def trajectory(
    family: Family,
    contexts: Contexts,
    prompts: list[str],
    anchors: list[str],
    steer: list[bool],
    steps: int,
    guidance: float,
    generator: torch.Generator,
    seeds: Sequence[int | None] = (),
    at_once: int | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Draws one latent per prompt with the guided sampler and records each of its states with three predictions.

    Records are on the CPU: there may be gigabytes of them.

    Args:
        steer: True where the trajectory follows the prompt, False where it follows the anchor: once the concept is
            gone, the prompt leads through the anchor's states, so forgetting has to hold there too.
        steps: Sampler steps; their times are shifted at random per latent, so that the whole schedule is met. A model
            that was distilled to few steps is asked at the times of its pipeline's own.
        guidance: Classifier-free, for families that do it; others follow the prediction itself.
        seeds: Of each latent's first noise, as the pipeline would draw it; None and none given: of the generator.
        at_once: Most latents that go through the model together; how many does not change what is drawn.
    """
    device, dtype = family.device, family.dtype
    asked = Asked(family, contexts, prompts, anchors, at_once)
    follow = beside(torch.tensor(steer, device=device), torch.empty(1, *family.latent_shape, device="meta"))
    x, generators = first_noise(family, [*seeds, *[None] * (len(prompts) - len(seeds))], generator)
    path = Own(family, steps, generators) if family.sampler.few else Spread(family, len(prompts), steps, generator)
    x, records = path.first(x.to(device, dtype)), []
    for k in range(len(path.times)):
        record = asked.record(*path.seen(k, x))
        record["shown"] = (k + 0.5) / len(path.times) * torch.tensor(steer).float()
        records.append({key: value.cpu() for key, value in record.items()})
        led = torch.where(follow, record["concept"], record["anchor"])
        if family.guided:
            led = family.lead(led, record["empty"], guidance)
        x = path.step(k, x, led)
    return records


def first_noise(
    family: Family, seeds: Sequence[int | None], generator: torch.Generator
) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Noise (B, C, H, W) as the pipeline draws it from seeds, and from the generator where there is none; and the
    generators that each latent's sampler goes on with."""
    x = torch.randn(len(seeds), *family.latent_shape, generator=generator)
    fresh = torch.randint(2**31, (len(seeds),), generator=generator).tolist() if family.sampler.few else seeds
    own = [torch.Generator().manual_seed(s if s is not None else n or 0) for s, n in zip(seeds, fresh, strict=True)]
    for k, seed in enumerate(seeds):
        if seed is not None:
            x[k] = torch.randn(family.latent_shape, generator=own[k])
    return x, own


def predict_parts(
    family: Family,
    x: torch.Tensor,
    t: torch.Tensor,
    contexts: tuple[Conditions, ...],
    rows: tuple[torch.Tensor, ...],
    at_once: int | None = None,
) -> list[torch.Tensor]:
    """`predict_distinct` of at most so many latents at a time."""
    parts = torch.arange(len(x)).split(at_once or len(x))
    found = [
        predict_distinct(family, x[k], t[k], tuple(select(c, k) for c in contexts), tuple(r[k] for r in rows))
        for k in parts
    ]
    return [torch.cat(part) for part in zip(*found)]


def predict_distinct(
    family: Family, x: torch.Tensor, t: torch.Tensor, contexts: tuple[Conditions, ...], rows: tuple[torch.Tensor, ...]
) -> list[torch.Tensor]:
    """Predictions of a batch under several contexts; those that are the same for the whole batch run once."""
    distinct = {tuple(r.tolist()): i for i, r in reversed(list(enumerate(rows)))}
    run = sorted(distinct.values())
    parts = family.predict(repeated(x, len(run)), t.repeat(len(run)), join([contexts[i] for i in run]))
    found = dict(zip(run, parts.chunk(len(run)), strict=True))
    return [found[distinct[tuple(r.tolist())]] for r in rows]


def times_in(family: Family, k: int, steps: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Times (count,) in part k of the schedule's `steps`; the pipeline's own for a model of few steps."""
    if family.sampler.few:
        own = family.own_times(steps)
        return own[k % len(own)].expand(count)
    return family.times((k + torch.rand(count, generator=generator)) / steps)


@torch.no_grad()
def noised_images(
    family: Family,
    contexts: Contexts,
    latents: torch.Tensor,
    pairs: list[Pair],
    steps: int,
    generator: torch.Generator,
    at_once: int | None = None,
) -> list[dict[str, torch.Tensor]]:
    """The same records from given pictures, a pair each: latents (N, C, H, W) noised to `steps` random times each."""
    device, dtype, n = family.device, family.dtype, len(latents)
    asked = Asked(family, contexts, [p.prompt for p in pairs], [p.anchor for p in pairs], at_once)
    records = []
    for k in range(steps):
        t = times_in(family, k, steps, n, generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device, latents.dtype)
        x = family.noised(latents, noise, t).to(dtype)
        come = (k + 0.5) / steps  # `times_in` goes up, but a pipeline's own times go down
        shown = torch.full((n,), come if family.sampler.few else 1 - come)
        records.append({**asked.record(x, t), "truth": family.truth(latents, noise, t), "shown": shown})
    return records


def draw_records(
    family: Family,
    contexts: Contexts,
    pairs: list[Pair],
    steer: list[bool],
    steps: int,
    guidance: float,
    seed: int,
    batch_size: int,
    progress: Callable[[int], None],
    at_once: int | None = None,
) -> list[dict[str, torch.Tensor]]:
    """`trajectory` over all pairs in batches; one generator per batch, so that the batch number fixes its noise."""
    records = []
    for start in range(0, len(pairs), batch_size):
        part, generator = pairs[start : start + batch_size], torch.Generator().manual_seed(seed + start)
        records += trajectory(family, contexts, [p.prompt for p in part], [p.anchor for p in part],
                              steer[start : start + batch_size], steps, guidance, generator,
                              [p.seed for p in part], at_once)  # fmt: skip
        progress(len(part))
    return records


def gather(forget: list[dict], keep: list[dict], remain: list[dict], contexts: Contexts) -> States:
    """One table of all records.

    A trajectory of the concept also tells what must stay on it: the answers to the anchor and to the empty prompt.
    """
    keep, remain = ([{**r, "shown": torch.zeros_like(r["shown"])} for r in part] for part in (keep, remain))
    rows: list[tuple[dict, int, torch.Tensor, torch.Tensor]] = []  # (record, kind, prompt, own prediction)
    for kind, records in ((FORGET, forget), (KEEP, keep)):
        for r in records:
            empty = contexts.empties(r["prompt"])
            rows.append((r, kind, r["prompt"], r["concept"]))
            if contexts.empty is not None:
                rows.append((r, EMPTY, empty, r["empty"]))
            if kind == FORGET and (contexts.empty is None or (r["other"] != empty).any()):
                rows.append((r, ANCHOR, r["other"], r["anchor"]))
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
        shown=cat(r["shown"] for r, *_ in rows),
        contexts=moved(contexts.values, "cpu"),
    )
