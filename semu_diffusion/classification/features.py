"""A classifier as a judge of pictures: what it names them, and its features of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .losses import logits_of


class PictureJudge(nn.Module):
    """A classifier of normalised pictures as one of pictures in [0, 1], with features as `metrics.feature_fid` asks.

    The features are the inputs of its last Linear layer. It is put in eval mode, and shared, not copied.

    Args:
        mean: Of each channel, or of all; by default what `Examples` takes: pictures in [-1, 1].
        std: Likewise.

    Raises:
        ValueError: a classifier without a Linear layer.
    """

    def __init__(self, classifier: nn.Module, mean: float | list[float] = 0.5, std: float | list[float] = 0.5):
        super().__init__()
        linear = [m for m in classifier.modules() if isinstance(m, nn.Linear)]
        if not linear:
            raise ValueError(f"{type(classifier).__name__} has no Linear layer, whose inputs are the features")
        self.classifier, self.num_features, self.last = classifier, linear[-1].in_features, None
        linear[-1].register_forward_pre_hook(lambda _, inputs: setattr(self, "last", inputs[0]))
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(value).float().reshape(-1, 1, 1), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        return logits_of(self.classifier((images - self.mean) / self.std))

    def features(self, images: Tensor) -> Tensor:
        """(B, num_features)."""
        return self.seen(images)[1]

    def seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features in one pass."""
        logits = self(images)
        return logits, self.last
