"""`semu models`: what can be erased from."""

from __future__ import annotations

import json

from .options import (  # noqa: E402
    Json,
)


def models(as_json: Json = False) -> None:
    """List embedded models and the families that can be erased from."""
    from ..diffusion.families import FAMILIES
    from ..diffusion.pipeline import ASSETS

    embedded = sorted(p.parent.name for p in ASSETS.glob("*/model_index.json"))
    families = [f.title for f in FAMILIES]
    if as_json:
        print(json.dumps({"embedded": embedded, "families": families}))
        return
    print("embedded:", *embedded or ["none"], sep="\n  ")
    print("families:", *families, sep="\n  ")
