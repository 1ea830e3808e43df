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

from ..adapter.ranks import Ranks
from ..adapter.sealed import load_sealed, save_sealed
from .concepts import Pair
from .families import Conditions, Family, Own, Spread, beside, join, moved, repeated, select

AT_ONCE = 256  # records that are sent to other processes together
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

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "contexts"}
        return tensors | {f"contexts.{name}": value for name, value in self.contexts.items()}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> States:
        """The states of such tensors."""
        own = {k: v for k, v in tensors.items() if not k.startswith("contexts.")}
        return cls(**own, contexts={k.removeprefix("contexts."): v for k, v in tensors.items() if k not in own})

    def save(self, path: Path, key: str) -> None:
        """Writes everything to one safetensors file, with the key that tells what it was made from."""
        save_sealed(self.tensors(), path, {"key": key})

    @classmethod
    def load(cls, path: Path, key: str) -> States | None:
        """The states of a file, or None where there is none, or one made from something else.

        Raises:
            ValueError: the file is damaged.
        """
        if not path.is_file():
            return None
        tensors, facts = load_sealed(path)
        return cls.of(tensors) if facts.get("key") == key else None

    @classmethod
    def for_all(cls, states: States | None, ranks: Ranks) -> States | None:
        """The first process's states, in all of them: others may be on machines that do not see its folder."""
        tensors = states.tensors() if states else {}
        sizes = ranks.first({k: (v.shape, v.dtype) for k, v in tensors.items()})
        if ranks.count == 1 or not sizes:
            return states
        for name, (shape, dtype) in sizes.items():
            value = tensors[name] if ranks.index == 0 else torch.empty(shape, dtype=dtype)
            tensors[name] = torch.cat([ranks.sent(part) for part in value.split(AT_ONCE)])
        return states if ranks.index == 0 else cls.of(tensors)


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


@dataclass
class Start:
    """Where trajectories begin: noise x (B, C, H, W), shifts of times (B,), generators that samplers go on with."""

    x: torch.Tensor
    shift: torch.Tensor
    generators: list[torch.Generator]

    def __getitem__(self, rows: torch.Tensor) -> Start:
        return Start(self.x[rows], self.shift[rows], [self.generators[k] for k in rows.tolist()])


def begin(family: Family, seeds: Sequence[int | None], generator: torch.Generator) -> Start:
    """Starts of a batch: noise as the pipeline draws it from seeds, and from the generator where there is none."""
    x = torch.randn(len(seeds), *family.latent_shape, generator=generator)
    fresh = torch.randint(2**31, (len(seeds),), generator=generator).tolist() if family.sampler.few else seeds
    own = [torch.Generator().manual_seed(s if s is not None else n or 0) for s, n in zip(seeds, fresh, strict=True)]
    for k, seed in enumerate(seeds):
        if seed is not None:
            x[k] = torch.randn(family.latent_shape, generator=own[k])
    shift = torch.zeros(len(seeds)) if family.sampler.few else torch.rand(len(seeds), generator=generator)
    return Start(x, shift, own)


def join_starts(parts: Sequence[Start]) -> Start:
    """The starts of several batches, one after the other."""
    x, shift = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "shift"))
    return Start(x, shift, [g for part in parts for g in part.generators])


@torch.no_grad()
def trajectory(
    family: Family,
    contexts: Contexts,
    prompts: list[str],
    anchors: list[str],
    steer: list[bool],
    steps: int,
    guidance: float,
    start: torch.Generator | Start,
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
        start: Where they begin, or the generator that says so.
        seeds: Of each latent's first noise, as the pipeline would draw it; None and none given: of the generator.
        at_once: Most latents that go through the model together; how many does not change what is drawn.
    """
    device, dtype = family.device, family.dtype
    if isinstance(start, torch.Generator):
        start = begin(family, [*seeds, *[None] * (len(prompts) - len(seeds))], start)
    asked = Asked(family, contexts, prompts, anchors, at_once)
    follow = beside(torch.tensor(steer, device=device), torch.empty(1, *family.latent_shape, device="meta"))
    path = Own(family, steps, start.generators) if family.sampler.few else Spread(family, start.shift, steps)
    x, records = path.first(start.x.to(device, dtype)), []
    for k in range(len(path.times)):
        record = asked.record(*path.seen(k, x))
        record["shown"] = (k + 0.5) / len(path.times) * torch.tensor(steer).float()
        records.append({key: value.cpu() for key, value in record.items()})
        led = torch.where(follow, record["concept"], record["anchor"])
        if family.guided:
            led = family.lead(led, record["empty"], guidance)
        x = path.step(k, x, led)
    return records


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
    """The same records from given pictures, a pair each: latents (N, C, H, W) noised to `steps` random times each.

    The processes of the family share the pictures out, and all have all records.
    """
    device, dtype, n = family.device, family.dtype, len(latents)
    own = family.ranks.places(n)
    pairs, latents = [pairs[k] for k in own.tolist()], latents[own]
    asked = Asked(family, contexts, [p.prompt for p in pairs], [p.anchor for p in pairs], at_once)
    records = []
    for k in range(steps):
        t = times_in(family, k, steps, n, generator)[own].to(device)
        noise = torch.randn(n, *latents.shape[1:], generator=generator)[own].to(device, latents.dtype)
        x = family.noised(latents, noise, t).to(dtype)
        come = (k + 0.5) / steps  # `times_in` goes up, but a pipeline's own times go down
        shown = torch.full((len(x),), come if family.sampler.few else 1 - come)
        record = {**asked.record(x, t), "truth": family.truth(latents, noise, t), "shown": shown}
        records.append({key: family.ranks.rows(value, n) for key, value in record.items()})
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
    """`trajectory` over all pairs in batches; one generator per batch, so that the batch number fixes its noise.

    The processes of the family share the latents out, and all have all records.
    """
    if not pairs:
        return []
    n, ranks = len(pairs), family.ranks
    batches = [slice(k, min(k + batch_size, n)) for k in range(0, n, batch_size)]
    starts = [begin(family, [p.seed for p in pairs[k]], torch.Generator().manual_seed(seed + k.start)) for k in batches]
    start, found, done = join_starts(starts), [], 0
    for own in ranks.places(n).split(batch_size):
        part = [pairs[k] for k in own.tolist()]
        prompts, anchors, led = [p.prompt for p in part], [p.anchor for p in part], [steer[k] for k in own.tolist()]
        found.append(trajectory(family, contexts, prompts, anchors, led, steps, guidance, start[own], at_once=at_once))
        progress(min(len(own) * ranks.count, n - done))
        done += min(len(own) * ranks.count, n - done)
    if ranks.count == 1:
        return [record for records in found for record in records]
    own = [{key: torch.cat([r[key] for r in records]) for key in records[0]} for records in zip(*found)]  # by step
    every = [{key: ranks.rows(value, n) for key, value in record.items()} for record in own]
    return [{key: value[k] for key, value in record.items()} for k in batches for record in every]


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
