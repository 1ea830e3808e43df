"""What a SEMU adapter is, as PEFT saves it in `adapter_config.json`."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftConfig

MOST_PATH = 1000  # letters; a longer text is no path
GEOMETRIES = ("euclidean", "remain")


def listed(value: str | list[str] | None) -> list[str]:
    """A fact of `SemuConfig.about` that may be one text, several or none, as a list."""
    return [value] if isinstance(value, str) and value else value or []


def erased_concepts(about: dict) -> list[str]:
    """What an adapter with these facts erases: what it was trained on top of first, each concept once."""
    return list(dict.fromkeys([*listed(about.get("before")), *listed(about.get("concept"))]))


def without_paths(value):
    """Facts for others: a text that is a path of this machine becomes the last name in it, within lists and dicts too.

    "user/name" on the Hub stays, unless there is such a folder here.
    """
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(inner) for inner in value]
    if not isinstance(value, str) or len(value) > MOST_PATH or not re.search(r"[/\\]", value):
        return value
    absolute = re.match(r"~?/|\.\.?/|[A-Za-z]:[/\\]|file:", value)
    return re.split(r"[/\\]+", value.rstrip("/\\"))[-1] if absolute or Path(value).exists() else value


class SemuPeftType(str, enum.Enum):
    """The PEFT type of this method; a str, so that it is found by the plain "SEMU" of a JSON file."""

    SEMU = "SEMU"


@dataclass
class SemuConfig(PeftConfig):
    """Configuration of W' = W + U R V^T (SEMU, arXiv 2502.07587), with U, V frozen and R trained.

    Args:
        target_modules: Names or regex of the Linear and Conv2d layers to adapt; None for all of them.
        exclude_modules: Names or regex of layers to leave out.
        modules_to_save: Names of modules that PEFT trains and saves whole besides (a classifier's new head).
        gamma: Share of the forgetting gradient's energy that a layer's basis must keep, in (0, 1].
        gamma_pattern: Regex (searched in the layer's name) -> gamma, for layers that need another one.
        max_rank: Most directions that a layer may get; None for no limit.
        geometry: The metric in which the basis is chosen, "euclidean" or "remain".
        damping: Remain geometry: the second moments C become C + damping * mean(diag C) * I.
        ranks: Exact layer name -> rank, filled in once the bases are known.
        about: Facts about the training (concept, anchor, base model, ...), copied into the file's header.

    Raises:
        ValueError: gamma outside (0, 1], max_rank below 1, a negative damping, an unknown geometry, a rank below 1.
    """

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or regex of the layers to adapt; None for every Linear and Conv2d."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or regex of layers to leave out."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Names of modules to train and save whole besides; through PEFT only."}
    )
    gamma: float = field(default=0.9, metadata={"help": "Energy share of the gradient to keep, in (0, 1]."})
    gamma_pattern: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Regex of layer names -> gamma for those layers."}
    )
    max_rank: int | None = field(default=None, metadata={"help": "Upper limit of a layer's rank; None for no limit."})
    geometry: str = field(
        default="euclidean", metadata={"help": "Metric of the basis: euclidean, or remain (least harm to the rest)."}
    )
    damping: float = field(default=1e-2, metadata={"help": "Remain geometry: relative damping of second moments."})
    ranks: dict[str, int] = field(default_factory=dict, metadata={"help": "Exact layer name -> rank."})
    about: dict = field(default_factory=dict, metadata={"help": "Facts about the training, copied to the header."})

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = SemuPeftType.SEMU
        for gamma in (self.gamma, *self.gamma_pattern.values()):
            if not 0 < gamma <= 1:
                raise ValueError(f"gamma must be in (0, 1], got {gamma}")
        if self.max_rank is not None and self.max_rank < 1:
            raise ValueError(f"max_rank must be at least 1, got {self.max_rank}")
        if self.geometry not in GEOMETRIES:
            raise ValueError(f"geometry must be one of {', '.join(GEOMETRIES)}, got {self.geometry!r}")
        if self.damping < 0:
            raise ValueError(f"damping must not be negative, got {self.damping}")
        for name, rank in self.ranks.items():
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise ValueError(f"the rank of {name} must be a whole number of at least 1, got {rank!r}")
