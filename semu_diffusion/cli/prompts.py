"""`semu prompts`: what `semu erase` would train on."""

from __future__ import annotations

import json

from ..diffusion.config import EraseConfig
from .erase import erase_options, with_options
from .loading import loading_options, take_loading
from .options import Device, Json, Model, display, open_pipeline, quieten

CHOICES = ("concept", "kind", "synonym", "anchor", "keep", "seed")  # of `semu erase`, as far as prompts depend on them


def prompts(
    model: Model = "pictograms",
    device: Device = None,
    as_json: Json = False,
    **options,
) -> None:
    """Show every prompt that an erasure would use; nothing is erased.

    semu prompts --concept "Albert Einstein" --kind person
    """
    from ..callbacks import Callback
    from ..diffusion.concepts import vocabulary_of
    from ..diffusion.families import family_of
    from ..diffusion.pipeline import model_path
    from ..diffusion.plan import make_plan

    quieten()
    loading = take_loading(options)
    config = EraseConfig(**{k: v for k, v in options.items() if v not in (None, [])})
    family, words = family_of(open_pipeline(model, device, loading), config.train), vocabulary_of(model_path(model))
    if as_json:
        plan, config = make_plan(family, config, words, [], Callback())
        pairs = [{k: v for k, v in vars(pair).items() if v is not None} for pair in plan.pairs]
        print(json.dumps({**plan.facts(), "strength": config.strength, "pairs": pairs, "keep": plan.keep}))
        return
    with display(False) as callback:
        plan, config = make_plan(family, config, words, [], callback)
    for pair in plan.pairs:
        print(f"{pair.prompt} → {pair.anchor or '(nothing)'}")
    print(f"\nkept, strength {config.strength:g}:", *dict.fromkeys(plan.keep), sep="\n")


chosen = {name: option for name, option in erase_options().items() if name in CHOICES}
with_options(prompts, {**chosen, **loading_options()}, CHOICES)
