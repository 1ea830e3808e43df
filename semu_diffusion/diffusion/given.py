"""Pictures that the user gives: their latents, and the prompt under which each is forgotten or kept."""

from __future__ import annotations

import torch

from ..callbacks import Callback
from ..inputs.collections import Collection, open_collection
from ..inputs.pictures import as_tensor, fitted
from ..inputs.tables import is_table
from .concepts import Pair
from .config import EraseConfig
from .families import Family

AT_ONCE = 8  # pictures that are read and encoded together

Given = tuple[torch.Tensor, list[Pair]]  # latents (N, C, H, W), and a prompt with its anchor for each


def given_pictures(family: Family, config: EraseConfig, pairs: list[Pair], callback: Callback) -> tuple[Given, Given]:
    """The pictures to forget and those to keep.

    A picture goes by its caption, else by the one prompt for its folder. A picture to forget without either goes by
    the concept's own prompts; one to keep has to have one of them, as any other prompt would be taught a wrong picture.

    Args:
        pairs: The concept's prompts with their anchors.

    Raises:
        ValueError: no pictures, a damaged one, or one without a prompt.
    """
    found = []
    for name, prompt in (("forget", config.forget_prompt), ("retain", config.retain_prompt)):
        source = getattr(config, f"{name}_images")
        if source is None:
            if prompt is not None:
                raise ValueError(f"--{name}-prompt is the prompt of --{name}-images, which are not given")
            found.append((torch.empty(0), []))
            continue
        pictures = open_collection(source)
        for note in pictures.notes:
            callback.warn(note)
        make = forget_prompts if name == "forget" else retain_prompts
        own = make(pictures, prompt, family, config, pairs, source)  # before anything is encoded
        found.append((encoded(pictures, family), own))
    return found[0], found[1]


def encoded(pictures: Collection, family: Family) -> torch.Tensor:
    """Latents (N, C, H, W), a few pictures in memory at a time; each covers the model's size, cropped to the centre."""
    latents, ranks = [], family.ranks
    for rows in ranks.places(len(pictures)).split(AT_ONCE):
        images = [as_tensor(fitted(pictures.open(k), *family.image_size)) for k in rows.tolist()]
        latents.append(family.encode_images(torch.stack(images)))
    return ranks.rows(torch.cat(latents), len(pictures)).to(family.device)


def retain_prompts(
    pictures: Collection, prompt: str | None, family: Family, config: EraseConfig, pairs: list[Pair], source: str
) -> list[Pair]:
    """Each picture's prompt, which stays what it is. ValueError where one has none."""
    captions = [prompt if caption is None else caption for caption in pictures.captions]
    if None in captions:
        raise ValueError(
            f"{captions.count(None)} of {len(captions)} pictures in {source} have no caption: put x.txt beside x.png, "
            "or a metadata.jsonl with file_name and text, or give one prompt for all with --retain-prompt"
        )
    return [Pair(caption, caption if family.empty is None else family.empty) for caption in captions]


def forget_prompts(
    pictures: Collection, prompt: str | None, family: Family, config: EraseConfig, pairs: list[Pair], source: str
) -> list[Pair]:
    """Each picture's prompt with the anchor that it is answered with.

    Pictures without a caption go by the concept's plainest prompt, those of a file of prompts by all of these in turn.

    Raises:
        ValueError: a picture without a caption, where it may show any of several concepts.
    """
    captions = [prompt if caption is None else caption for caption in pictures.captions]
    if None in captions and len(config.concept) > 1:
        raise ValueError(
            f"{captions.count(None)} of {len(captions)} pictures in {source} have no caption, and may show any of "
            f"{len(config.concept)} concepts: put x.txt beside x.png, or give one prompt for all with --forget-prompt"
        )
    plain = pairs if is_table(config.concept[0]) else pairs[:1]  # of a word, the first prompt has no context
    found = [plain[k % len(plain)] if c is None else answered(c, pairs) for k, c in enumerate(captions)]
    same = next((pair for pair in found if pair.prompt.strip() == pair.anchor.strip()), None)
    if same:
        raise ValueError(f"a picture's prompt and its anchor are the same ({same.prompt!r}); choose another --anchor")
    return found


def answered(caption: str, pairs: list[Pair]) -> Pair:
    """A caption with what it says of the concept replaced, else with the concept's bare anchor.

    "a man with a knife" becomes "a man with a fork" where "a knife" is answered with "a fork".
    """
    low = caption.lower()
    inside = [pair for pair in pairs if pair.prompt and pair.prompt.lower() in low]
    pair = max(inside, key=lambda pair: len(pair.prompt), default=None)
    if pair is None or not pair.anchor:
        return Pair(caption, (pair or pairs[0]).anchor)
    start = low.index(pair.prompt.lower())
    return Pair(caption, caption[:start] + pair.anchor + caption[start + len(pair.prompt) :])
