"""The pictograms: 24 objects x 6 styles, their captions, and the oracle that names them.

The embedded Stable Diffusion checkpoint under `assets/pictograms` was trained on renders of these
(`scripts/build_pictograms.py`); the oracle is the classifier that judges its pictures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

# fmt: off
OBJECTS = (
    "cigarette", "knife", "bomb", "wine", "beer", "cat", "dog", "airplane", "rocket", "car", "apple", "banana",
    "pizza", "guitar", "umbrella", "house", "tree", "sunflower", "fish", "butterfly", "football", "crown",
    "balloon", "mushroom",
)
# fmt: on
STYLES = ("photo", "watercolor", "sketch", "neon", "sepia", "blueprint")

# Words that captions use now and then instead of the name: the attacks of `eval/` need some that erasing never saw.
SYNONYMS = {
    "cigarette": "smoke", "knife": "blade", "bomb": "explosive", "wine": "glass of wine", "beer": "mug of beer",
    "cat": "kitten", "dog": "puppy", "airplane": "plane", "rocket": "spaceship", "car": "automobile",
    "football": "soccer ball", "umbrella": "parasol", "house": "cottage", "mushroom": "toadstool",
}  # fmt: skip

# Closest pairs in meaning or looks; an eraser that is too blunt hurts these first.
NEIGHBOURS = {
    "wine": ("beer",), "beer": ("wine",), "cat": ("dog",), "dog": ("cat",), "airplane": ("rocket",),
    "rocket": ("airplane",), "bomb": ("football",), "football": ("bomb",), "apple": ("banana", "balloon"),
    "banana": ("apple",), "balloon": ("apple",), "tree": ("sunflower", "mushroom"), "sunflower": ("tree",),
    "mushroom": ("umbrella", "tree"), "umbrella": ("mushroom",), "knife": ("cigarette",), "cigarette": ("knife",),
    "fish": ("butterfly",), "butterfly": ("fish",), "pizza": ("banana",),
    "sepia": ("photo",), "photo": ("sepia",), "watercolor": ("sketch",), "sketch": ("watercolor",),
    "neon": ("blueprint",), "blueprint": ("neon",),
}  # fmt: skip

ASSETS = Path(__file__).parent / "assets" / "pictograms"
SIZE = 64  # pixels


def article(noun: str) -> str:
    """The noun with its indefinite article: "an apple", "a rocket"."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def caption(obj: str | None = None, style: str | None = None) -> str:
    """The plain caption of an object, a style, or both; "" for neither."""
    subject = f"a picture of {article(obj)}" if obj else "a picture"
    if style:
        return f"{subject} in {style} style"
    return subject if obj else ""


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
