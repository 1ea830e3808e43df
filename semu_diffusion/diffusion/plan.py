"""All prompts of an erasure, and who chose them: the kinds, anchors and neighbours of its concepts."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace

from ..callbacks import Callback
from .concepts import (
    KINDS,
    Concept,
    Pair,
    Vocabulary,
    check_words,
    concepts_of,
    forget_pairs,
    forms,
    keep_prompts,
    others_of,
    proper,
    strangers,
    suite_of,
)
from .config import EraseConfig
from .erasers.registry import OWN, eraser_of
from .families import Family, drawing_defaults
from .nearest import Nearest, nearest, nearest_class

SHOWN = 3  # first prompts that are printed
SETTLE = {"style": 130, "other": 50}  # steps
STRENGTH = {True: 0.25, False: 0.75}  # by whether the anchor is a thing that can be drawn


@dataclass(frozen=True)
class Plan:
    """What is trained on: pairs to forget by concept, prompts to keep, and what the model chose for each concept."""

    concepts: tuple[Concept, ...]
    pairs: list[Pair]
    keep: list[str]
    anchors: dict[str, list[str]] = field(default_factory=dict)
    neighbours: dict[str, list[str]] = field(default_factory=dict)
    alike: dict[str, list[str]] = field(default_factory=dict)

    def facts(self) -> dict:
        """What results.json and the adapter's config say of it."""
        kinds = {c.given: c.kind for c in self.concepts}
        return {"kinds": kinds, "anchors": self.anchors, "neighbours": self.neighbours, "alike": self.alike}

    def about(self) -> dict:
        """What the adapter's config says of it: `facts`, and the anchors in words where the model or the kind chose."""
        instead = dict.fromkeys(a for own in self.anchors.values() for a in own)
        return {**self.facts(), **({"anchor": ", ".join(instead)} if self.anchors else {})}

    @property
    def concrete(self) -> bool:
        """Whether every concept is answered by something that can be drawn."""
        return bool(self.anchors) and all(own and all(own) for own in self.anchors.values())


def make_plan(
    family: Family, config: EraseConfig, vocabulary: Vocabulary, gone: list[str], callback: Callback
) -> tuple[Plan, EraseConfig]:
    """The plan, and the config with its sampler and the strength that its anchors need; said through the callback.

    Args:
        gone: Concepts that an adapter below this one has erased: neither kept nor drawn instead.

    Raises:
        ValueError: as `check_words`, `forget_pairs` and `check_lengths`.
    """
    config = with_sampler(config, family)
    if not family.reads_text:
        return class_plan(family, config, vocabulary, gone, callback), with_strength(config, False)
    concepts = concepts_of(config.concept, vocabulary, config.kind, config.synonym)
    check_words(concepts, config.anchor, config.keep, vocabulary)
    for word in strangers(config.concept, vocabulary, config.kind):
        callback.warn(f"{word!r} is no word that this model is known to draw (its vocabulary.json has them); going on")
    names = [name for c in concepts if c.kind != "prompts" for name in c.names] + list(gone)
    callback.stage("anchors", len(concepts))
    plan = Plan(tuple(concepts), [], [])
    for concept in concepts:
        add_concept(plan, family, concept, config, vocabulary, names)
        callback.advance()
    near = [w for own in (*plan.neighbours.values(), *plan.anchors.values()) for w in own if w]
    plan.keep.extend(
        config.keep or keep_prompts(names, vocabulary, config.keep_latents, config.seed, near, config.near)
    )
    lines = told(plan)
    if vocabulary.common:
        suites = dict.fromkeys(f"semu eval --suite {suite_of(c.kind)}" for c in concepts)
        lines.append(f"judged by: {', '.join(suites)}")
    for line in (*lines, *check_lengths(family, plan)):
        callback.note(line)
    return plan, with_strength(with_settling(config, plan.concepts), plan.concrete)


def class_plan(
    family: Family, config: EraseConfig, vocabulary: Vocabulary, gone: list[str], callback: Callback
) -> Plan:
    """That of a class-conditional model: without an anchor, a class is answered like the one drawn most like it.

    On photographs, a class that stands for none leaves blurs, another one proper pictures (docs/concepts.md).
    """
    erased, below = ([family.names[family.label(c)] for c in given] for given in (config.concept, gone))
    others = [name for name in family.names if name not in {*erased, *below}]
    if config.anchor is None and config.objective != "negative" and others and asks_model(config):
        callback.stage("anchors", len(erased))
        pairs = []
        for name in erased:
            pairs += family.pairs([name], nearest_class(family, name, others, config), vocabulary, config.seed)
            callback.advance()
    else:
        pairs = family.pairs(config.concept, config.anchor, vocabulary, config.seed)
    keep = config.keep or family.keep([*erased, *below], vocabulary, config.keep_latents, config.seed)
    anchors = {c: [p.anchor for p in pairs if p.prompt == name] for c, name in zip(config.concept, erased)}
    for c, own in anchors.items():
        callback.note(f"erasing the class {c}: drawn like {', '.join(own) if all(own) else 'no class'}")
    return Plan((), pairs, keep, anchors)


def add_concept(
    plan: Plan, family: Family, concept: Concept, config: EraseConfig, vocabulary: Vocabulary, gone: list[str]
) -> None:
    """One concept's pairs, with what the model says is nearest to it."""
    words = vocabulary.without(
        [n for n in gone if n not in concept.names]
    )  # none is drawn instead of, or with, another
    found = Nearest(None, (), (), {})
    if concept.kind != "prompts" and asks_model(config):
        found = nearest(family, concept, words, gone, config)
        plan.neighbours[concept.given], plan.alike[concept.given] = list(found.neighbours), list(found.alike)
    anchor = config.anchor
    if anchor == "nearest":
        anchor = found.neighbours[0] if found.neighbours else ""
    elif anchor is None and concept.kind in ("object", "style"):
        anchor = found.anchor
    if config.objective == "negative":
        anchor = ""
    pairs = forget_pairs(concept, anchor, words, config.seed)
    if config.prompts == "name" and concept.kind != "prompts":
        pairs = bare_pairs(concept, anchor, words, config.seed)
    plan.pairs.extend(pairs)
    if anchor is None:
        anchor = KINDS[concept.kind].anchor if concept.kind in KINDS else None
    own = [anchor] if anchor is not None else sorted({p.anchor for p in pairs})
    plan.anchors[concept.given] = own


def asks_model(config: EraseConfig) -> bool:
    """Whether the method makes anything of what is nearest to the concept."""
    return config.method == OWN or bool({"anchor", "near"} & {*eraser_of(config.method).takes})


def bare_pairs(concept: Concept, anchor: str | None, words: Vocabulary, seed: int) -> list[Pair]:
    """What a concept is called, and nothing else, answered by what its anchor is called.

    ESD leads away from this, and not from whole sentences: one also names a style or an object that is to stay, and
    away from it would be away from that as well.
    """
    if anchor is None:
        anchor = KINDS[concept.kind].anchor or ""
    if anchor == "random":
        anchor = random.Random(seed).choice(others_of(concept, words))
    worded = concept.kind == "style" and not proper(concept.name)
    said = lambda word: f"{word} style" if worded and word and not word.endswith(" style") else word  # noqa: E731
    return [Pair(said(name), said(anchor)) for name in concept.names]


def with_settling(config: EraseConfig, concepts: tuple[Concept, ...]) -> EraseConfig:
    """The config with the steps in which what is kept settles, where it names none.

    A style is gone in no time and takes the nearest others along, which need longer to come back: on the embedded model
    blueprint leaves neon at 67 % after 50 steps and at 96 % after 150.
    """
    longest = max(SETTLE["style" if c.kind == "style" else "other"] for c in concepts)
    return config if config.settle is not None else replace(config, settle=longest)


def with_sampler(config: EraseConfig, family: Family) -> EraseConfig:
    """The config with the pipeline's own sampler steps and guidance, where it names none."""
    own, steps, guidance = drawing_defaults(family.pipe), config.sampler_steps, config.guidance
    steps, guidance = own.erasing if steps is None else steps, own.guidance if guidance is None else guidance
    return replace(config, sampler_steps=steps, guidance=guidance)


def with_strength(config: EraseConfig, concrete: bool) -> EraseConfig:
    """The config with the strength that its anchors need, where it names none."""
    return config if config.strength is not None else replace(config, strength=STRENGTH[concrete])


def told(plan: Plan) -> list[str]:
    """A line for each concept: its kind, first pairs, what is kept near it, and what draws the same."""
    lines = []
    for concept in plan.concepts:
        pairs = [p for p in plan.pairs if concept.kind == "prompts" or concept.named_in(p.prompt)][:SHOWN]
        shown = ", ".join(f"{p.prompt} → {p.anchor or 'nothing'}" for p in pairs)
        what = "the prompts of" if concept.kind == "prompts" else f"the {concept.kind}"
        lines.append(f"erasing {what} {concept.name}: {shown}, …")
        near, alike = plan.neighbours.get(concept.given), plan.alike.get(concept.given)
        if near:
            lines.append(f"kept with more care, as nearest to {concept.name}: {', '.join(near)}")
        if alike:
            lines.append(
                f"drawn as {concept.name} is, and not kept: {', '.join(alike)}; --synonym erases such a word too"
            )
    return lines


def check_lengths(family: Family, plan: Plan) -> list[str]:
    """What is to be said of prompts that are longer than the tokenizer takes; own sentences that lose it are left out.

    Raises:
        ValueError: a concept, or what tells a file's prompt from its anchor, would be cut off.
    """
    texts = list(dict.fromkeys([*(p for pair in plan.pairs for p in (pair.prompt, pair.anchor)), *plan.keep]))
    read = dict(zip(texts, family.read(texts), strict=True))
    lost = [pair for pair in plan.pairs if read[pair.prompt] is not None and not heard(plan, pair, read)]
    whole = [pair for pair in plan.pairs if pair not in lost]
    for concept in plan.concepts:
        own = [pair for pair in lost if concept.kind == "prompts" or concept.named_in(pair.prompt)]
        if own and (concept.kind == "prompts" or not any(concept.named_in(pair.prompt) for pair in whole)):
            shown = min((pair.prompt for pair in own), key=len)
            raise ValueError(
                f"the prompt {shown!r} is longer than the model reads, which is up to {read[shown][-30:]!r}: what is "
                f"to be forgotten ({concept.name!r}) would be cut off; shorten it"
            )
    plan.pairs[:] = whole
    said = [f"{len(lost)} sentences are left out, as the model does not read as far as their concept"] if lost else []
    cut = [t for t in texts if read[t] is not None and t not in {pair.prompt for pair in lost}]
    if cut:
        said.append(
            f"{len(cut)} prompts are longer than the model reads; the first, {cut[0]!r}, up to {read[cut[0]][-20:]!r}"
        )
    return said


def heard(plan: Plan, pair: Pair, read: dict[str, str | None]) -> bool:
    """Whether what is read of a pair's prompt still names its concepts and is not what is read of its anchor."""
    left = read[pair.prompt]
    return left != read[pair.anchor] and all(within(c, left) for c in plan.concepts if c.named_in(pair.prompt))


def within(concept: Concept, text: str) -> bool:
    """Whether a text that a tokenizer took apart still names the concept."""
    flat = lambda words: re.sub(r"\W", "", words.lower())  # noqa: E731
    return any(flat(form) in flat(text) for name in concept.names for form in forms(name))
