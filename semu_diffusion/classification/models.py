"""Classifiers: ResNet-18 with the CIFAR stem and VGG-16 with BatchNorm, or those of transformers and timm."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..adapter.claims import SHAPELESS
from ..adapter.weights import save_atomic, write_atomic
from .data import Data, Examples
from .labels import match_labels

VGG16_WIDTHS = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8)  # in widths; 0 halves the picture


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small pictures: a 3x3 stem without pooling (He et al. 2016). (B, channels, H, W) -> (B, C).

    Args:
        num_classes: Logits.
        channels: Channels of the pictures.
        width: Channels of the first stage; 64 in the paper, 16 trains in a minute on a laptop.
    """

    def __init__(self, num_classes: int = 10, channels: int = 3, width: int = 64):
        super().__init__()
        self.arguments = {"num_classes": num_classes, "channels": channels, "width": width}
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        sides = [width, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(Block(sides[k], sides[k + 1], 2 if k else 1), Block(sides[k + 1], sides[k + 1], 1))
                for k in range(4)
            )
        )
        self.head = nn.Linear(sides[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.head(x.mean((2, 3)))


class VGG16(nn.Module):
    """VGG-16 with BatchNorm and one linear layer on top (Simonyan & Zisserman 2015). (B, channels, H, W) -> (B, C).

    The arguments are those of `ResNet18`; pictures need sides of at least 16.
    """

    def __init__(self, num_classes: int = 10, channels: int = 3, width: int = 64):
        super().__init__()
        self.arguments = {"num_classes": num_classes, "channels": channels, "width": width}
        parts, inside = [], channels
        for times in VGG16_WIDTHS:
            if times:
                conv = nn.Conv2d(inside, times * width, 3, 1, 1, bias=False)
                parts += [conv, nn.BatchNorm2d(times * width), nn.ReLU(inplace=True)]
                inside = times * width
            else:
                parts.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*parts)
        self.head = nn.Linear(inside, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


MODELS = {"resnet18": ResNet18, "vgg16": VGG16}


def load_classifier(
    name: str = "resnet18", num_classes: int = 10, channels: int = 3, width: int = 16, seed: int = 0
) -> nn.Module:
    """A fresh "resnet18" or "vgg16", a folder of `save_classifier`, "timm/...", or a transformers id or folder.

    Args:
        num_classes: For fresh models; timm gets it, too.
        channels: Of the pictures that a fresh model takes.
        width: First channels of a fresh model.
        seed: Of a fresh model's weights.

    Raises:
        ValueError: nothing there, or a missing package.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name in MODELS:
            return MODELS[name](num_classes, channels, width)
        if (Path(name) / "model.json").is_file():
            return load_own(Path(name))
        return load_timm(name.removeprefix("timm/"), num_classes) if name.startswith("timm/") else load_hub(name)


def load_own(folder: Path) -> nn.Module:
    """A classifier of `save_classifier`, in eval mode. ValueError for a folder that is not as that writes it."""
    try:
        about = json.loads((folder / "model.json").read_text())
        model = MODELS[about["model"]](**about["arguments"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
        model.class_names, model.image_size = about.get("class_names"), about.get("image_size")
    except (*SHAPELESS, OSError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} holds no classifier as semu writes it ({type(error).__name__}: {said})") from None
    return model.eval()


def load_timm(name: str, num_classes: int) -> nn.Module:
    """A pretrained timm model with a head of `num_classes`."""
    try:
        import timm
    except ImportError:
        raise ValueError(f"timm/{name} needs timm: pip install timm") from None
    try:
        return timm.create_model(name, pretrained=True, num_classes=num_classes)
    except Exception as error:
        raise ValueError(f"timm has no model {name!r}: {' '.join(str(error).split())[:300]}") from None


def load_hub(name: str) -> nn.Module:
    """An image classifier of transformers."""
    from transformers import AutoModelForImageClassification

    try:
        return AutoModelForImageClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        known = f"{', '.join(MODELS)}, timm/..., or a transformers image classifier"
        raise ValueError(f"no classifier {name!r} (known: {known}): {' '.join(str(error).split())[:300]}") from None


def normalise_like(name: str, model: nn.Module, sets: tuple[Examples, ...]) -> None:
    """Gives the sets the mean and std of the image processor beside a transformers model, where there is one."""
    if not hasattr(model, "save_pretrained"):
        return
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return  # a model without one is fed as ours are
    for examples in sets:
        examples.mean, examples.std = (
            torch.tensor(v).reshape(-1, 1, 1) for v in (processor.image_mean, processor.image_std)
        )


def save_classifier(model: nn.Module, folder: str | Path) -> Path:
    """Writes a bare model where `load_classifier` finds it; one without a name of its own is saved as weights only."""
    folder = Path(folder)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    save_atomic(model.state_dict(), folder / "model.safetensors")
    kind = next((k for k, v in MODELS.items() if type(model) is v), None)
    if kind:
        known = {name: getattr(model, name, None) for name in ("class_names", "image_size")}
        write_atomic(folder / "model.json", json.dumps({"model": kind, "arguments": model.arguments, **known}))
    return folder


def match_pictures(name: str, data: Data, model: nn.Module, trained: bool) -> None:
    """ValueError where a classifier of ours takes other pictures than the data are."""
    channels, size = data.train.x.shape[1], data.train.x.shape[-1]
    takes, own = getattr(model, "arguments", {}).get("channels", channels), getattr(model, "image_size", None) or size
    if takes != channels:
        raise ValueError(f"{name} takes pictures of {takes} channels, those of the data have {channels}")
    if own != size and not trained:
        raise ValueError(f"{name} was trained on pictures of {own} pixels, not {size}; --size {own} resizes the data")


def open_classifier(name: str, data: Data, width: int, seed: int, device: str | None, trained: bool = False):
    """The model at `--model`, on its device; the data are normalised as a transformers model wants them.

    The labels of the data become those of the model's outputs, by name (`match_labels`).

    Args:
        trained: Whether the model is trained on the data first, so that any order of its outputs, and any size of
            pictures, will do.

    Raises:
        ValueError: no such model or device, or data of other classes or pictures than it is for.
    """
    model = load_classifier(name, len(data.classes), data.train.x.shape[1], width, seed)
    match_pictures(name, data, model, trained)
    match_labels(data, model, trained)
    if not hasattr(model, "config"):
        model.class_names, model.image_size = data.classes, data.train.x.shape[-1]
    normalise_like(name, model, (data.train, data.held_out, data.test))
    try:
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from None
