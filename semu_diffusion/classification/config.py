"""Every choice of an unlearning run, the same for `unlearn()` and `semu classify`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ..options import option, require

STOPS = ("confidence", "accuracy", "loss", "never")
GRADIENTS = ("true", "random")
LABELS = ("uniform", "likely")


@dataclass
class UnlearnConfig:
    """How to forget.

    Raises:
        ValueError: a value outside its range, in one line that names the option and the range.
    """

    alpha: float = option(1.0, "Weight of the loss on the retain data; 0 trains on the forget set alone.")
    whole_class: bool = option(False, "The forget set is all there is of its classes: go on until none is named.")
    # basis
    target_modules: str | None = option(None, "Regex of the layers to adapt; default: every Linear and Conv2d.")
    gamma: float = option(0.9, "Share of the forgetting gradient's energy that each basis keeps, in (0, 1].")
    max_rank: int = option(16, "Most directions per layer.")
    geometry: str = option("remain", "Metric of the basis: euclidean, or remain (least harm to the rest).")
    damping: float = option(1e-2, "Damping of the remain geometry, relative.")
    gradient: str = option("true", f"Labels of the gradient that gives the basis: {', '.join(GRADIENTS)}.")
    # training
    labels: str = option(
        "likely", "Random labels: uniform among the other classes, or likely (drawn as the model itself ranks them)."
    )
    epochs: int = option(60, "Most passes over the forget set.")
    lr: float = option(1e-2, "Learning rate, relative to the size of each layer's weight.")
    batch_size: int = option(64, "Forgotten, and as many kept, examples per step.")
    stop: str = option("accuracy", f"What of the forget set is to reach that of unseen data: {', '.join(STOPS)}.")
    target: float | None = option(
        None, "Value of what --stop names to stop at, e.g. the model's known accuracy (0..1) on unseen data."
    )
    share: float | None = option(
        None,
        "Share of the training data that is forgotten, if known: unseen data are expected to look as they would "
        "to a model that was trained without it.",
    )
    seed: int = option(0, "Seed of labels, batches and augmentation.")

    def __post_init__(self):
        self.max_rank, self.epochs, self.batch_size = int(self.max_rank), int(self.epochs), int(self.batch_size)
        checks = (
            (math.isfinite(self.alpha) and self.alpha >= 0, "alpha must not be negative"),
            (0 < self.gamma <= 1, "gamma must be in (0, 1]"),
            (self.max_rank >= 1, "max-rank must be at least 1"),
            (self.geometry in ("euclidean", "remain"), "geometry must be euclidean or remain"),
            (math.isfinite(self.damping) and self.damping >= 0, "damping must not be negative"),
            (self.gradient in GRADIENTS, f"gradient must be one of {', '.join(GRADIENTS)}"),
            (self.epochs >= 1, "epochs must be at least 1"),
            (math.isfinite(self.lr) and self.lr > 0, "lr must be above 0"),
            (self.batch_size >= 1, "batch-size must be at least 1"),
            (self.stop in STOPS, f"stop must be one of {', '.join(STOPS)}"),
            (self.labels in LABELS, f"labels must be one of {', '.join(LABELS)}"),
            (self.target is None or self.reachable(), "target must be in [0, 1], for stop loss at least 0"),
            (self.share is None or 0 <= self.share < 1, "share must be in [0, 1)"),
            (self.target is None or not self.whole_class, "target is not for whole classes: none of them stays"),
        )
        require(checks)

    def reachable(self) -> bool:
        """Whether the target is a value that the stop rule's measure can have."""
        return 0 <= self.target < (math.inf if self.stop == "loss" else 1.0 + 1e-9)

    def to_dict(self) -> dict:
        """All values, as they go into results.json and the adapter's header."""
        return asdict(self)
