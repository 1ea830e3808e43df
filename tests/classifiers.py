"""A small classifier and pictures for it."""

import torch
from torch import nn

from semu_diffusion.classification import (
    Examples,
)


class Net(nn.Module):
    """Convolution, BatchNorm and dropout on pictures of 6 x 6."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.head = nn.Linear(8 * 36, classes)

    def forward(self, x):
        return self.head(self.drop(self.bn(self.conv(x)).relu()).flatten(1))


def pictures(n: int, seed: int, classes: int = 4) -> Examples:
    """Noise around one pattern per class."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randn(classes, 1, 6, 6, generator=torch.Generator().manual_seed(99))
    y = torch.randint(classes, (n,), generator=g)
    return Examples(patterns[y] + 0.7 * torch.randn(n, 1, 6, 6, generator=g), y)
