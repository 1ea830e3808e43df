"""The oracle: the classifier that judges pictures of the pictograms."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .words import ASSETS, OBJECTS, STYLES


class Oracle(nn.Module):
    """Two-headed classifier of pictograms: images (B, 3, 64, 64) in [0, 1] -> object (B, 24), style (B, 6) logits."""

    num_features = 160  # size of `features`, as torchmetrics' FID asks for it

    def __init__(self, width: int = 24):
        super().__init__()
        channels = (12, width, 2 * width, 4 * width, self.num_features)
        blocks = [self._block(i, o) for i, o in zip(channels[:-1], channels[1:], strict=True)]
        self.trunk = nn.Sequential(nn.PixelUnshuffle(2), *blocks)
        self.object_head = nn.Linear(self.num_features, len(OBJECTS))
        self.style_head = nn.Linear(self.num_features, len(STYLES))

    @staticmethod
    def _block(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features (B, 160), for FID and drift."""
        return self.trunk(images * 2 - 1).mean((2, 3))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(images)
        return self.object_head(features), self.style_head(features)


def load_oracle(path: str | Path = ASSETS / "oracle") -> Oracle:
    """The oracle, in fp32 and eval mode, from a folder with `model.safetensors`."""
    from safetensors.torch import load_file

    oracle = Oracle()
    oracle.load_state_dict({k: v.float() for k, v in load_file(Path(path) / "model.safetensors").items()})
    return oracle.eval().requires_grad_(False)
