"""Records of what adapters erase and of what must stay, drawn anew by the base model, and what a pipeline answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..adapter.config import SemuConfig, erased_concepts
from ..adapter.moments import LeadingMoments, second_moments
from ..adapter.updates import Update
from ..callbacks import Callback
from .concepts import KINDS, Concept, Pair, Vocabulary, concept_of, forget_pairs, is_file, keep_prompts, vocabulary_of
from .data import BATCH, spread
from .families import Conditions, Family, select
from .pipeline import TEXT_ENCODERS, base_name, model_path, parts
from .states import Contexts, draw_records

LATENTS, STEPS, GUIDANCE = 12, 6, 3.0  # per concept; of the sampler
KEPT_LATENTS, KEPT_RECORDS = 96, 10  # of what must stay: at most, as many as of all concepts; records for each of them
HELD_OUT = 4  # every fourth record is measured on
AT_ONCE = 32


@dataclass
class Given:
    """An adapter to be merged: its updates at full strength by part and layer, and how strong it shall be."""

    name: str
    config: SemuConfig
    updates: Mapping[str, Mapping[str, Update]]
    weight: float = 1.0
    digest: str = ""  # of its files

    @property
    def concepts(self) -> list[str]:
        """What it erases."""
        return erased_concepts(self.config.about)


@dataclass
class Table:
    """Records: latents x (N, C, H, W) at times t (N,) under prompts by row (N,)."""

    x: torch.Tensor
    t: torch.Tensor
    prompt: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> Table:
        return Table(self.x[index], self.t[index], self.prompt[index])

    def split(self) -> tuple[Table, Table]:
        """Those to learn from, and every fourth one to measure on."""
        held = torch.arange(len(self.t)) % HELD_OUT == HELD_OUT - 1
        return self[~held], self[held]


class Scene:
    """Records of every adapter's concepts and of what must stay, and what the pipeline answers there."""

    def __init__(self, pipe, family: Family, adapters: Sequence[Given], seed: int, callback: Callback):
        self.pipe, self.family = pipe, family
        self.adapts_text = any(part in TEXT_ENCODERS for given in adapters for part in given.updates)
        vocabulary = vocabulary_of(model_path(base_name(pipe)))
        lists = [pairs_of(given, family, vocabulary, seed) for given in adapters]
        concepts = sum(len(given.concepts) for given in adapters)
        prompts = kept_prompts(family, adapters, seed, min(LATENTS * concepts, KEPT_LATENTS))
        kept = [Pair(p, p if family.empty is None else family.empty) for p in prompts]
        texts = [
            text for pair in (*(pair for own in lists for pair in own), *kept) for text in (pair.prompt, pair.anchor)
        ]
        self.contexts = Contexts(family, texts, GUIDANCE)
        callback.stage("records", sum(map(len, lists)) + len(kept))
        drawn = [self.draw(own, [k % 2 == 0 for k in range(len(own))], seed, callback) for own in lists]
        others = self.draw(kept, [True] * len(kept), seed + 10**6, callback)
        self.own = [self.table(records, "prompt").split() for records in drawn]  # (learnt from, measured on) each
        self.kept = self.what_stays(drawn, others, KEPT_RECORDS * len(kept), seed).split()

    def draw(self, pairs: list[Pair], steer: list[bool], seed: int, callback: Callback) -> list[dict]:
        """Trajectories of the base model."""
        progress = callback.advance
        return draw_records(self.family, self.contexts, pairs, steer, STEPS, GUIDANCE, seed, BATCH, progress, AT_ONCE)

    def table(self, records: list[dict], row: str) -> Table:
        """Records under their own prompts ("prompt"), their anchors ("other") or the empty one ("empty")."""
        rows = [self.contexts.empties(r["prompt"]) if row == "empty" else r[row] for r in records]
        return Table(torch.cat([r["x"] for r in records]), torch.cat([r["t"] for r in records]), torch.cat(rows))

    def what_stays(self, drawn: list[list[dict]], others: list[dict], count: int, seed: int) -> Table:
        """Half of it kept prompts, the rest what else is asked where concepts are: anchors and the empty prompt."""
        generator, own = torch.Generator().manual_seed(seed), sum(drawn, [])
        tables = [(self.table(others, "prompt"), count // 2), (self.table(own, "other"), count // 4)]
        if self.contexts.empty is not None:
            tables.append((self.table(own + others, "empty"), count // 4))
        chosen = [table[torch.randperm(len(table.t), generator=generator)[:count]] for table, count in tables]
        return Table(*(torch.cat([getattr(table, f) for table in chosen]) for f in ("x", "t", "prompt")))

    @torch.no_grad()
    def answers(self, table: Table) -> torch.Tensor:
        """The model's predictions (N, C, H, W) as it is now, on the CPU in fp32."""
        values, device, found = self.conditions(), self.family.device, []
        for k in torch.arange(len(table.t)).split(AT_ONCE):
            x, t = table.x[k].to(device), table.t[k].to(device)
            found.append(self.family.predict(x, t, select(values, table.prompt[k])).float().cpu())
        return torch.cat(found)

    def conditions(self) -> Conditions:
        """What the prompts are for the denoiser, encoded anew where adapters change that."""
        return self.family.encode(list(self.contexts.rows), GUIDANCE) if self.adapts_text else self.contexts.values

    def moments(self, part: str, layers: Sequence[str], table: Table) -> dict[str, torch.Tensor | LeadingMoments]:
        """Second moments of the inputs of a part's layers on records; for a text encoder on their prompts."""
        prompts, config = list(self.contexts.rows), SemuConfig(ranks=dict.fromkeys(layers, 1))
        if part in TEXT_ENCODERS:
            own = [prompts[k] for k in table.prompt.unique().tolist()]
            return second_moments(parts(self.pipe)[part], config, lambda: self.family.encode(own, GUIDANCE))
        return second_moments(parts(self.pipe)[part], config, lambda: self.answers(table))


# ---------------------------------------------------------------------------------------------- prompts


def pairs_of(given: Given, family: Family, vocabulary: Vocabulary, seed: int = 0) -> list[Pair]:
    """`LATENTS` prompts for each concept that an adapter erases, with what answers them, as its config names them.

    Raises:
        ValueError: none named, or a file of prompts that is not here.
    """
    about, found = given.config.about, []
    if not given.concepts:
        raise ValueError(f"{given.name} does not say what it erases; add the adapters up with --way sum")
    for name in given.concepts:
        anchor, words = anchor_of(about, name), vocabulary.without([c for c in given.concepts if c != name])
        if not family.reads_text:
            found += spread(family.pairs([name], anchor and anchor[0], words, seed), LATENTS, seed)
            continue
        concept = concept_named(name, about, vocabulary)
        if concept.kind == "prompts" and not Path(name).is_file():
            raise ValueError(
                f"{given.name} erases the prompts of {Path(name).name}, which is not here; put it into this folder, or "
                "add the adapters up with --way sum"
            )
        found += spread(forget_pairs(concept, anchor, words, seed), LATENTS, seed)
    return found


def anchor_of(about: Mapping, concept: str) -> list[str] | None:
    """What an adapter's config says is drawn instead of a concept; None for what its kind has."""
    own = (about.get("anchors") or {}).get(concept)
    return None if own is None else [str(anchor) for anchor in (own if isinstance(own, list) else [own])]


def concept_named(name: str, about: Mapping, vocabulary: Vocabulary) -> Concept:
    """The concept that an adapter's config names, of the kind that it was taken for."""
    kind = (about.get("kinds") or {}).get(name)
    return concept_of(name, vocabulary, kind if kind in KINDS and not is_file(name) else None)


def kept_prompts(family: Family, adapters: Sequence[Given], seed: int, count: int) -> list[str]:
    """Prompts of what none of the adapters erases, half of them about what is nearest to that."""
    vocabulary = vocabulary_of(model_path(base_name(family.pipe)))
    gone = [name for given in adapters for name in given.concepts]
    if not family.reads_text:
        return family.keep(gone, vocabulary, count, seed)
    near = [w for given in adapters for own in (given.config.about.get("neighbours") or {}).values() for w in own]
    return keep_prompts(gone, vocabulary, count, seed, [str(w) for w in near if w not in gone])
