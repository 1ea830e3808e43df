"""What is nearest to a concept by the model itself: words to draw in its place, and words to keep with more care.

Near in its text encoder's space; another thing where its denoiser answers to it otherwise than to the concept. Both
matter: a concrete target close to the concept moves least (arXiv 2501.18950 measures which), and what is closest is
hurt first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate.utils import align_module_device

from .concepts import Concept, Pair, Vocabulary, frames_of, names, others_of, singular
from .concepts.language import is_noun
from .concepts.prompts import say
from .families import Family, repeated, select
from .states import Contexts, draw_records

# Of the distance from the concept's answers to those without it: a word nearer than that draws the same. On the
# embedded model the other names in its captions are at 0.1 to 0.2, other things at 1.3 and more.
SAME = 0.7
LOOKED_AT = 12  # words, nearest in the text space, that the denoiser is asked about
WORDS = 48  # of the tokenizer's, nearest among its embeddings, that are encoded
NEIGHBOURS = 4  # words that are kept with more care
SENTENCES = 4  # trajectories of the concept on which the denoiser is asked
TOGETHER = 3  # words that it is asked about at once, as many answers as a trajectory takes at each of its states


@dataclass(frozen=True)
class Nearest:
    """What a model says of a concept.

    anchor: The word to draw instead; None where there is no candidate.
    neighbours: Other words close to it, nearest first.
    alike: Words that draw the same thing, which are neither kept nor drawn instead.
    distances: Of each word that was looked at, (in the text space, of the denoiser's answers).
    """

    anchor: str | None
    neighbours: tuple[str, ...]
    alike: tuple[str, ...]
    distances: dict[str, tuple[float, float]]


@torch.no_grad()
def nearest(family: Family, concept: Concept, vocabulary: Vocabulary, gone: list[str], config) -> Nearest:
    """The model's anchor and neighbours of a concept.

    Args:
        gone: Names that no anchor and no neighbour may have: those of all concepts that are erased.
        config: Of the erasure, for the sampler of the states on which the denoiser is asked.
    """
    words = [w for w in candidates(family.pipe, concept, vocabulary) if not names(w, [*gone, *concept.names])]
    if not words:
        return Nearest(None, (), (), {})
    text = text_distances(family, concept, words, vocabulary)
    looked = sorted(words, key=text.__getitem__)[:LOOKED_AT]
    answers = dict.fromkeys(looked, 1.0)
    if family.draws:  # else there are no states to ask it on
        answers = answer_distances(family, concept, looked, vocabulary, config)
    alike = tuple(w for w in looked if answers[w] < SAME)
    others = [w for w in looked if w not in alike]
    rank = lambda word: others.index(word) + sorted(others, key=answers.__getitem__).index(word)  # noqa: E731
    count = min(NEIGHBOURS, max(1, round(len(words) / 3)))
    found = {w: (round(text[w], 3), round(answers[w], 3)) for w in looked}
    return Nearest(min(others, key=rank) if others else None, tuple(others[:count]), alike, found)


def candidates(pipe, concept: Concept, vocabulary: Vocabulary) -> list[str]:
    """Words of the concept's kind: the model's own; else whole-word tokens of its CLIP, and those everybody knows."""
    words = list(others_of(concept, vocabulary))
    if concept.kind == "object" and vocabulary.common:
        words += token_words(pipe, concept.name)
    return list(dict.fromkeys(words))


def token_words(pipe, name: str, count: int = WORDS) -> list[str]:
    """The nouns among a CLIP tokenizer's whole words that are nearest to a name by their embeddings; [] without one."""
    tokenizer, encoder = getattr(pipe, "tokenizer", None), getattr(pipe, "text_encoder", None)
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
    whole = {t.removesuffix("</w>"): k for t, k in vocabulary.items() if t.endswith("</w>")}
    if not whole or encoder is None:
        return []
    table = encoder.get_input_embeddings()
    with align_module_device(table):  # an offloaded one is elsewhere
        vectors = table.weight.detach().float()
    own = vectors[tokenizer(name, add_special_tokens=False).input_ids].mean(0)
    nearness = torch.cosine_similarity(vectors, own[None])  # (V,)
    found = []
    for word in sorted(whole, key=lambda w: -nearness[whole[w]].item()):
        apart = word not in name and name not in word  # "doggy" is no other thing than a dog
        if len(word) > 2 and word.isalpha() and apart and is_noun(word) and singular(word) == word:
            found.append(word)
        if len(found) == count:
            break
    return found


def text_distances(family: Family, concept: Concept, words: list[str], vocabulary: Vocabulary) -> dict[str, float]:
    """1 - cosine of the states of a word's and the concept's sentences, averaged and centred over all of them."""
    frame = frames_of(concept, vocabulary)[0]
    states = family.text_states([say(frame, w, concept.kind) for w in (concept.name, *words)])  # (1 + W, T, d)
    means = states.flatten(2).float().mean(1)
    means = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    return dict(zip(words, (1 - means[1:] @ means[0]).tolist(), strict=True))


def answer_distances(
    family: Family, concept: Concept, words: list[str], vocabulary: Vocabulary, config
) -> dict[str, float]:
    """How far the denoiser's answers to a word are from those to the concept, in distances of those to "" from them.

    On states of the concept's own trajectories, every second of them; processes share the words out.
    """
    frames = [f for f in frames_of(concept, vocabulary) if f.answer is None]  # the others draw less surely
    frames = [frames[k * len(frames) // SENTENCES] for k in range(SENTENCES)] if len(frames) > SENTENCES else frames
    said = {w: [say(f, w, concept.kind) for f in frames] for w in (concept.name, *words)}
    without = [f.without for f in frames]
    return answers_apart(family, said, concept.name, without, config)


def nearest_class(family: Family, name: str, others: list[str], config) -> str:
    """The class, of `others`, to which a class-conditional model answers most as it does to `name`."""
    said = {word: [word] * SENTENCES for word in (name, *others)}
    apart = answers_apart(family, said, name, [family.empty or name] * SENTENCES, config)
    return min(others, key=apart.__getitem__)


def answers_apart(
    family: Family, said: dict[str, list[str]], name: str, without: list[str], config
) -> dict[str, float]:
    """For each word but `name`, how far the answers to its prompts are from those to the prompts of `name`.

    In distances of the answers to `without` from them, on every second state of the trajectories of `name`.

    Args:
        said: word -> its prompts, as many for each.
    """
    words = [word for word in said if word != name]
    contexts = Contexts(family, [*without, *(p for own in said.values() for p in own)], config.guidance)
    pairs = [Pair(p, e) for p, e in zip(said[name], without, strict=True)]
    records = draw_records(
        family, contexts, pairs, [True] * len(pairs), config.sampler_steps, config.guidance, config.seed, 32,
        lambda n: None,
    )[::2]  # fmt: skip
    own = [words[k] for k in family.ranks.places(len(words)).tolist()]
    apart = torch.zeros(len(own), dtype=torch.float64)
    for r in records:
        x, t = (r[key].to(family.device) for key in ("x", "t"))
        for k in range(0, len(own), TOGETHER):
            part = own[k : k + TOGETHER]
            conditions = select(contexts.values, torch.cat([contexts[said[word]] for word in part]))
            answers = family.predict(repeated(x, len(part)), t.repeat(len(part)), conditions).cpu()
            for place, answer in enumerate(answers.chunk(len(part)), k):
                apart[place] += (answer - r["concept"]).float().square().sum().item()
    nothing = sum((r["anchor"] - r["concept"]).float().square().sum().item() for r in records)
    apart = family.ranks.rows(apart, len(words)).tolist()
    return {w: (value / max(nothing, 1e-12)) ** 0.5 for w, value in zip(words, apart, strict=True)}
