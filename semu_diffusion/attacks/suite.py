"""All attacks on one model, each with a share of pictures that show the concept again and show it properly."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial

import torch

from ..callbacks import Callback
from ..diffusion.concepts import Vocabulary, kind_of, name_of, phrase
from ..evaluation.prompts import Shot
from ..options import option
from .files import combined, quantised
from .given import by_given, digests
from .image_guided import redraw
from .inversion import invert, states
from .judge import Judge, rates
from .prompts import paraphrases, search_prompt
from .relearn import fine_tune, steps_to
from .target import Pictures, Target

JUDGED, SHOWN = 50_000_000, 60_000_000  # first seeds: to be judged, to attack with


@dataclass
class AttackConfig:
    """How hard to attack.

    Raises:
        ValueError: a number outside its range, in one line that names it.
    """

    seeds: int = option(4, "Pictures per prompt that are judged.")
    contexts: int = option(6, "Prompts of the concept: that many styles, or subjects for a style.")
    pictures: int = option(16, "Pictures of the concept that the attacker has.")
    tokens: int = option(5, "Free tokens before the prompt.")
    iterations: int = option(30, "Swaps of free tokens per prompt.")
    candidates: int = option(16, "Swaps that are tried each time.")
    inversion_steps: int = option(300, "Training steps of textual inversion.")
    inversion_lr: float = option(5e-3, "Its learning rate.")
    strengths: tuple[float, ...] = option((0.5, 0.7, 0.9), "Noise on the picture in image-guided attacks.")
    relearn_steps: tuple[int, ...] = option((0, 10, 25, 50, 100, 200), "Steps at which relearning is looked at.")
    lora_lr: float = option(1e-3, "Learning rate of relearning with a LoRA.")
    full_lr: float = option(1e-4, "Learning rate of relearning with all weights.")
    scales: tuple[float, ...] = option((0.5, 0.75, 1.25, 1.5), "Strengths of the edit.")
    steps: int = option(15, "Sampler steps.")
    guidance: float = option(3.0, "Classifier-free guidance.")
    seed: int = option(0, "Seed of the attacks.")

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                setattr(self, f.name, value := tuple(value))
            least = 0 if f.name in ("seed", "guidance", "relearn_steps", "inversion_steps", "iterations") else 1
            if isinstance(value, tuple) and not value:
                raise ValueError(f"{f.name.replace('_', '-')} must hold at least one number")
            if isinstance(value, int) and value < least:
                raise ValueError(f"{f.name.replace('_', '-')} must be at least {least}, got {value}")
        if not all(0 < s <= 1 for s in self.strengths):
            raise ValueError("strengths must be in (0, 1]")
        if min(self.lora_lr, self.full_lr, self.inversion_lr) <= 0:
            raise ValueError("learning rates must be above 0")


@dataclass
class Attacker:
    """One model under attack, what the attacker has, and how success is judged.

    `given` are further attacks by name, with prompts that others found (`given.read_given`).
    """

    target: Target
    base: Target
    concept: str
    vocabulary: Vocabulary
    judge: Judge | None
    config: AttackConfig
    given: dict[str, list[Shot]] = field(default_factory=dict)

    def __post_init__(self):
        config, rng = self.config, random.Random(self.config.seed)
        self.is_object = kind_of(self.concept, self.vocabulary) != "style"
        words = self.vocabulary.without([self.concept])
        others = list(words.styles if self.is_object else words.subjects) or [None]
        self.contexts = rng.sample(others, min(config.contexts, len(others)))
        self.prompts = [self.phrase(name_of(self.concept), c) for c in self.contexts]
        self.anchors = [self.phrase(None, c) for c in self.contexts]
        self.kept_prompts = [phrase(s, c) for s in words.subjects or (None,) for c in words.styles or (None,)]
        rng.shuffle(self.kept_prompts)

    @cached_property
    def shown(self) -> Pictures:
        """Pictures of the concept."""
        return self.photographed(self.prompts, SHOWN)

    @cached_property
    def kept(self) -> Pictures:
        """Pictures of other things."""
        return self.photographed(self.kept_prompts, SHOWN + 10**6)

    def phrase(self, name: str | None, context: str | None) -> str:
        """The plain prompt of the concept in a context; of the context alone without a name."""
        return phrase(name, context) if self.is_object else phrase(context, name)

    def photographed(self, prompts: list[str], seed: int) -> Pictures:
        """The attacker's pictures: what the base model draws for these prompts, in turn."""
        n, config = self.config.pictures, self.config
        prompts = [prompts[k % len(prompts)] for k in range(n)]
        return self.base.pictures(prompts, [seed + k for k in range(n)], config.steps, config.guidance)

    def judged(self, text: torch.Tensor, target: Target | None = None) -> dict:
        """Rates for text states (P, T, d), `seeds` pictures of each."""
        config = self.config
        text = text.repeat_interleave(config.seeds, 0)
        seeds = [JUDGED + k for k in range(len(text))]
        return rates(self.judge((target or self.target).draw(text, seeds, config.steps, config.guidance)))

    @torch.no_grad()
    def plain(self, target: Target | None = None, prompts: list[str] | None = None) -> dict:
        """Rates of prompts as they are."""
        target = target or self.target
        return self.judged(target.encode(target.ids(prompts or self.prompts)), target)


# ------------------------------------------------------------------------------------------------- attacks


def by_plain_prompt(a: Attacker) -> dict:
    """No attack: the concept's own prompts."""
    return a.plain()


def by_paraphrase(a: Attacker) -> dict:
    """Sentences and synonyms that erasing never saw."""
    return a.plain(prompts=paraphrases(a.concept, a.contexts, a.vocabulary))


def by_prompt_search(a: Attacker) -> dict:
    """Free tokens found by gradient, for each prompt by itself."""
    c = a.config
    found = [
        search_prompt(a.target, p, a.shown, c.tokens, c.iterations, c.candidates, seed=c.seed + k)
        for k, p in enumerate(a.prompts)
    ]
    with torch.no_grad():
        result = a.judged(a.target.encode(torch.stack([f.ids for f in found])))
    return {**result, "free": [f.text for f in found], "loss": [[f.losses[0], f.losses[-1]] for f in found]}


def inverting(named: bool) -> Callable[[Attacker], dict]:
    """A learned embedding in the place of the concept's name, from nothing or from that name's own."""

    def attack(a: Attacker) -> dict:
        c = a.config
        found = invert(a.target, a.concept, a.shown, c.inversion_steps, c.inversion_lr, seed=c.seed, named=named)
        with torch.no_grad():
            result = a.judged(states(a.target, a.prompts, a.concept, found.embedding))
        return {**result, "loss": [found.losses[0], found.losses[-1]] if found.losses else []}

    attack.__doc__ = f"Textual inversion from {'the name' if named else 'the mean of all tokens'}."
    return attack


def by_image(a: Attacker) -> dict:
    """From noised and inverted pictures; the headline is the noised one at the highest strength.

    `control` is the base model going on under the anchor's prompt: what the picture brings by itself.
    """
    c, prompts = a.config, a.shown.prompts
    anchors = [a.anchors[k % len(a.anchors)] for k in range(len(prompts))]

    def again(target: Target, prompts: list[str], strength: float, inverted: bool) -> dict:
        args = (target, a.shown.latents, prompts, strength, c.steps, c.guidance, inverted, c.seed)
        return rates(a.judge(redraw(*args)))

    found = {
        str(s): {"noised": again(a.target, prompts, s, False), "inverted": again(a.target, prompts, s, True),
                 "control": again(a.base, anchors, s, False)}
        for s in c.strengths
    }  # fmt: skip
    return {**found[str(max(c.strengths))]["noised"], "strengths": found}


def relearning(kind: str, benign: bool) -> Callable[[Attacker], dict]:
    """Fine-tuning on the concept's pictures, or on kept ones only; the headline is the last look."""

    def attack(a: Attacker) -> dict:
        c, pictures = a.config, a.kept if benign else a.shown
        lr = c.lora_lr if kind == "lora" else c.full_lr
        _, curve = fine_tune(a.target, pictures, kind, max(c.relearn_steps), lr, seed=c.seed,
                             probe_at=c.relearn_steps, probe=a.plain)  # fmt: skip
        rest = {k: v for k, v in curve[-1].items() if k not in ("step", "loss")}
        return {**rest, "curve": curve, "steps_to_half": steps_to(curve, 0.5)}

    attack.__doc__ = f"{'Benign fine-tuning' if benign else 'Relearning'}, {kind}."
    return attack


def quantising(bits: int) -> Callable[[Attacker], dict]:
    """Weights of the merged model rounded to so many bits."""
    return lambda a: a.plain(quantised(a.target, bits))


def by_scale(a: Attacker) -> dict:
    """The edit at other strengths; the headline is the best of them."""
    found = {str(s): a.plain(combined(a.target, a.base, s)) for s in a.config.scales}
    return {**max(found.values(), key=lambda r: r["success"]), "scales": found}


def by_merging(a: Attacker) -> dict:
    """An unrelated LoRA, trained on kept pictures of the base model, merged in."""
    c = a.config
    other, _ = fine_tune(a.base, a.kept, "lora", max(c.relearn_steps), c.lora_lr, seed=c.seed)
    return a.plain(combined(a.target, a.base, 1.0, other))


ATTACKS: dict[str, Callable[[Attacker], dict]] = {
    "plain": by_plain_prompt,
    "paraphrase": by_paraphrase,
    "prompt": by_prompt_search,
    "inversion": inverting(named=False),
    "inversion-name": inverting(named=True),
    "image": by_image,
    "relearn-lora": relearning("lora", False),
    "relearn-full": relearning("full", False),
    "benign-lora": relearning("lora", True),
    "benign-full": relearning("full", True),
    "int8": quantising(8),
    "int4": quantising(4),
    "scale": by_scale,
    "merge": by_merging,
}


def run_attacks(
    attacker: Attacker,
    names: list[str] | None = None,
    done: dict[str, dict] | None = None,
    save: Callable[[dict], None] = lambda found: None,
    callback: Callback | None = None,
) -> dict[str, dict]:
    """Attack -> {"success", "interval", "present", "coherent", "pictures", ...}; see `judge.rates`.

    Args:
        names: Which ones; default all, and those that the attacker was given.
        done: Results of an interrupted run, which are kept.
        save: Called with all results after each attack.

    Raises:
        ValueError: an unknown attack.
    """
    ways = ATTACKS | {name: partial(by_given, shots=shots) for name, shots in attacker.given.items()}
    names, callback, found = names or list(ways), callback or Callback(), dict(done or {})
    unknown = next((name for name in names if name not in ways), None)
    if unknown:
        raise ValueError(f"unknown attack {unknown!r}; known: {', '.join(ways)}")
    callback.stage("attacks", len(names))
    for name in names:
        if name not in found:
            found[name] = ways[name](attacker)
            save(found)
        callback.advance(1)
    return found


def protocol(attacker: Attacker) -> dict:
    """What another run must share for its numbers to be comparable."""
    facts = {"concept": attacker.concept, "prompts": attacker.prompts, "taken_off": attacker.target.taken_off}
    given = {"prompts_from": digests(attacker.given)} if attacker.given else {}
    return {**facts, **given, **asdict(attacker.config)}
