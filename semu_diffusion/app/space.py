"""The page as a Space of the Hugging Face Hub: the few files that run it there."""

from __future__ import annotations

from pathlib import Path

from .. import __version__

APP = '''"""The page of semu-diffusion. On ZeroGPU a GPU is lent for each job; elsewhere it runs on what there is."""

import contextlib

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  before torch, which ZeroGPU prepares

from semu_diffusion.app import launch
from semu_diffusion.app.desk import Model

launch(Model({model!r}), host="0.0.0.0", port=7860)
'''

README = """---
title: {title}
emoji: ✂️
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
app_file: app.py
python_version: "3.11"
license: apache-2.0
short_description: Erase concepts from diffusion models
models: [{models}]
---

# {title}

Erase concepts from a diffusion model, look at what is left, measure it, and take the adapter along as a small file.
Made by `semu app --export-space` of the package semu-diffusion.

Jobs run one at a time, and what a visitor makes is gone when the page is closed. On CPU hardware the embedded model is
erased from in some minutes; a checkpoint of the Hub needs a GPU.
"""

REQUIREMENTS = """semu-diffusion[app,nudenet]=={version}
spaces
"""


def export_space(folder: str | Path, model: str = "pictograms") -> Path:
    """Writes app.py, requirements.txt and README.md with the Space's metadata into a folder, and returns it.

    Args:
        model: What the page opens with: a shipped model's name, or a Hub id.

    Raises:
        ValueError: a folder in use, a model that a Space does not have, Gradio is not installed.
    """
    from ..adapter.claims import check_output, filled
    from ..diffusion.pipeline import SHIPPED
    from ..hub.transfer import is_repo
    from .page import library

    if model not in SHIPPED and not is_repo(model):
        raise ValueError(f"{model!r} is not on the Hub; a Space opens {', '.join(SHIPPED)}, or user/name")
    folder, title = check_output(Path(folder), False), "Erase a concept"
    files = {
        "app.py": APP.format(model=model),
        "requirements.txt": REQUIREMENTS.format(version=__version__),
        "README.md": README.format(title=title, gradio=library().__version__, models="" if model in SHIPPED else model),
    }
    with filled(folder) as part:
        for name, text in files.items():
            (part / name).write_text(text, encoding="utf-8")
    return folder
