"""Random labels and the two-part loss of SEMU's classification setting."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor


def logits_of(output) -> Tensor:
    """The logits (B, C) of a model's output: a tensor, or something with `.logits`, as in transformers.

    Raises:
        ValueError: no such thing, another shape, or values that are not finite.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits (batch, classes), got {what}")
    broken = len(logits) - int(logits.isfinite().all(1).sum())
    if broken:
        raise ValueError(f"the model's logits are not finite (NaN or infinite) for {broken} of {len(logits)} inputs")
    return logits


def check_labels(labels: Tensor, num_classes: int, name: str) -> None:
    """Raise ValueError unless labels are whole numbers in 0..num_classes - 1."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"{name}: labels must be whole numbers (N,), got {labels.dtype} {tuple(labels.shape)}")
    if labels.numel() and not 0 <= labels.min() <= labels.max() < num_classes:
        span = f"{labels.min().item()}..{labels.max().item()}"
        raise ValueError(f"{name}: labels must be in 0..{num_classes - 1}, as the model's outputs, got {span}")


def random_labels(
    labels: Tensor, num_classes: int, generator: torch.Generator, forgotten: Collection[int] = ()
) -> Tensor:
    """A label for each example, uniform among the classes other than its own and the wholly forgotten ones, (N,).

    Not (y + 1) mod C where a plain draw hits y, as the published code has it: that doubles the odds of y + 1.

    Raises:
        ValueError: no other class is left.
    """
    others = torch.tensor([c for c in range(num_classes) if c not in forgotten])
    own = torch.isin(labels, others).long()  # 1 where the true label is among them and must be skipped
    if len(others) <= int(own.max() if own.numel() else 0):
        raise ValueError(f"no other class to move the forget set to: {num_classes} in all, {len(forgotten)} forgotten")
    drawn = (torch.rand(len(labels), generator=generator, dtype=torch.float64) * (len(others) - own)).long()
    return others[drawn + own * (drawn >= torch.searchsorted(others, labels))]


def likely_labels(
    logits: Tensor, labels: Tensor, generator: torch.Generator, forgotten: Collection[int] = ()
) -> Tensor:
    """A label for each example, (N,), drawn from softmax(logits) without its own and the wholly forgotten classes.

    A model that never saw an example mistakes it for the classes that it resembles, not for any at random.

    Raises:
        ValueError: no other class is left.
    """
    logits = logits.double().scatter(1, labels[:, None], -torch.inf)
    logits[:, list(forgotten)] = -torch.inf
    if not logits.isfinite().any(1).all():
        raise ValueError(
            f"no other class to move the forget set to: {logits.shape[1]} in all, {len(forgotten)} forgotten"
        )
    return torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


def unlearning_loss(logits: Tensor, labels: Tensor, forgotten: int, alpha: float) -> tuple[Tensor, dict[str, float]]:
    """CE(random labels) on the first `forgotten` rows + alpha * CE(true labels) on the rest; and its parts.

    SEMU, arXiv 2502.07587: L_c = E_f[CE(x, y')] + alpha E_r[CE(x, y)], y' != y.
    """
    forgetting = F.cross_entropy(logits[:forgotten], labels[:forgotten])
    loss, parts = forgetting, {"forget": forgetting.item()}
    if len(logits) > forgotten:
        kept = F.cross_entropy(logits[forgotten:], labels[forgotten:])
        loss, parts["retain"] = loss + alpha * kept, kept.item()
    return loss, parts
