"""What an adapter is called: titles of models and concepts for people, and names of files."""

from __future__ import annotations

import re
from pathlib import Path

from ..adapter.config import erased_concepts
from .concepts.language import series

KOHYA = "_kohya.safetensors"  # how the names of files with kohya's names end
OLD_KOHYA = "semu_kohya.safetensors"  # what all of them were called up to 0.1
MOST_NAMED = 3  # concepts in the name of a file
MOST_BYTES = 200  # of such a name; file systems take 255


def is_hub_name(base: str) -> bool:
    """Whether a base model's name is one on the Hub, not a folder of this machine or an embedded model."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) is not None and not Path(base).exists()


def title_of(base: str) -> str:
    """A base model's name without the folders of this machine."""
    return base if is_hub_name(base) else plain(Path(base).name) or "the base model"


def plain(text: object, most: int = 80) -> str:
    """Words from anywhere as one short line that is neither HTML nor Markdown."""
    return re.sub(r"[^\w\s.,'()-]", "", " ".join(str(text).split()))[:most].strip()


def made_with(about: dict) -> str:
    """The method that an adapter was made with, as one says it; SEMU where it says nothing else."""
    return plain(about.get("method") or "SEMU")


def concept_names(about: dict) -> list[str]:
    """What an adapter with these facts erases, each as a short line of plain text; a file of prompts by its name.

    A merged adapter's words come from files of others, and a file's path says where it lay on somebody's machine.
    """
    names = (Path(str(c)).stem if Path(str(c)).suffix in (".txt", ".csv") else str(c) for c in erased_concepts(about))
    return [plain(name) for name in names]


def concepts_in(about: dict) -> str:
    """What an adapter with these facts erases, as words."""
    return series(concept_names(about)) or "what it was made to forget"


def kohya_file(about: dict) -> str:
    """The name of an adapter's file in kohya's names: pictograms_without_cigarette_kohya.safetensors."""
    names = concept_names(about)
    more = [f"{len(names) - MOST_NAMED}_more"] if len(names) > MOST_NAMED else []
    base = Path(title_of(about.get("base_model") or "model").removesuffix(".safetensors")).name
    concepts = "_and_".join([*names[:MOST_NAMED], *more])
    stem = f"{base}_without_{concepts}" if concepts else f"{base}_semu"
    plain = re.sub(r"[^\w.-]+", "_", stem).encode()[:MOST_BYTES].decode(errors="ignore")
    return plain.strip("._-") + KOHYA
