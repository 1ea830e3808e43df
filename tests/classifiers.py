"""A small classifier and pictures for it."""

from pathlib import Path

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


def write_noise(folder: Path, names: list[str], test: int) -> torch.Tensor:
    """A data set of noise, uint8 (N, 3, 32, 32), 24 for training and `test` more, in these classes in turn."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature
    from PIL import Image

    noise = torch.randint(0, 256, (24 + test, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    kinds = Features({"img": ImageFeature(), "label": ClassLabel(names=names)})
    folder.mkdir(exist_ok=True)
    for name, part in (("train", noise[:24]), ("test", noise[24:])):
        rows = {"img": [Image.fromarray(p.numpy()) for p in part], "label": [k % len(names) for k in range(len(part))]}
        Dataset.from_dict(rows, kinds).to_parquet(folder / f"{name}.parquet")
    return noise.permute(0, 3, 1, 2)
