"""`semu models`: what can be erased from, and what an erasure of it can be exported as."""

from __future__ import annotations

import json

from .options import Json

GIVES = {
    "native": "the exact adapter, for semu",
    "diffusers": "a LoRA for load_lora_weights, and for ComfyUI",
    "kohya": "a LoRA for ComfyUI, A1111 and Forge",
    "merged": "the whole model as a diffusers folder",
    "single-file": "the whole model as one file",
}


def models(as_json: Json = False) -> None:
    """List embedded models, the families that can be erased from, and what each can be exported as."""
    import diffusers

    from ..diffusion.families import FAMILIES, TESTED
    from ..diffusion.pipeline import ASSETS

    embedded = sorted(p.parent.name for p in ASSETS.glob("*/model_index.json"))
    families = {
        f.title: {
            "pipelines": f.pipelines, "missing": [name for name in f.pipelines if not hasattr(diffusers, name)],
            "exports": f.exports, "tested": TESTED,
        } for f in FAMILIES
    }  # fmt: skip
    if as_json:
        print(json.dumps({"embedded": embedded, "families": families, "exports": GIVES}))
        return
    print("embedded:", *embedded or ["none"], sep="\n  ")
    print("families:")
    for title, facts in families.items():
        print(f"  {title}\n    {', '.join(facts['pipelines'])}\n    exports: {', '.join(facts['exports'])}")
        if facts["missing"]:
            print(f"    not in diffusers {diffusers.__version__}: {', '.join(facts['missing'])}")
    print("exports:", *(f"{name}: {text}" for name, text in GIVES.items()), sep="\n  ")
    print(f"tested with diffusers {' and '.join(TESTED)}; this is {diffusers.__version__}")
