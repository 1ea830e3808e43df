"""What is written down about each picture: body parts, the concept that a classifier names, CLIP scores, features.

A judge takes files and their shots and gives one dict per picture; it keeps no state, so that processes may share the
pictures out among themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ..diffusion.pipeline import SHIPPED, model_path
from ..inputs.labels import same_name
from ..inputs.pictures import as_tensor, fitted, read_picture
from ..metrics.clip import ClipEncoder, _clip_score_update, zero_shot
from ..metrics.fid import InceptionDistance
from ..metrics.naturalness import roughness, sureness
from ..metrics.nudity import NudeNet
from .pictures import read_pictures
from .prompts import Shot
from .proper import KINDS, Proper, load_references, looks

BATCH = 16
IMAGENET = "microsoft/resnet-50"


class BodyParts:
    """{"detections": [[class, score, box], ...]}: everything that NudeNet reports, whatever is counted later."""

    def __init__(self, detector=None):
        self.detector = detector or NudeNet()

    def describe(self) -> dict:
        return self.detector.describe()

    def __call__(self, files: Sequence[Path], shots: Sequence[Shot]) -> list[dict]:
        return [{"detections": [list(d) for d in found]} for found in self.detector(files)]


class Namer:
    """{"named", "sure", "rough"}: the label of the largest logit, its probability, and how rough the picture is.

    Args:
        classify: images (B, 3, H, W) in [0, 1] -> logits (B, C).
        labels: C of them; a label may list synonyms after commas, as ImageNet's do.
        about: what `describe` says.
    """

    def __init__(self, classify: Callable[[Tensor], Tensor], labels: Sequence[str], about: dict):
        self.classify, self.labels, self.about = classify, list(labels), about

    def describe(self) -> dict:
        return self.about

    def __call__(self, files: Sequence[Path], shots: Sequence[Shot]) -> list[dict]:
        batches = (read_pictures(files[start : start + BATCH]) for start in range(0, len(files), BATCH))
        return [record for images in batches for record in self.look(images)]

    def look(self, images: Tensor) -> list[dict]:
        """The records of a batch (B, 3, H, W)."""
        logits = self.classify(images)
        rows = zip(logits.argmax(1).tolist(), sureness(logits).tolist(), roughness(images).tolist())
        return [{"named": self.labels[k], "sure": sure, "rough": rough} for k, sure, rough in rows]


class OracleNamer(Namer):
    """The pictograms' oracle as a namer of objects, and of styles where a style is the label.

    It also says "natural": whether it is a proper picture, beside those of the embedded model (`proper.Proper`).
    """

    def __init__(self, oracle: nn.Module):
        labels = [name for names in KINDS.values() for name in names]
        super().__init__(None, labels, {"name": "pictograms oracle", "model": weights_hash(oracle)})
        self.oracle, self.proper = oracle, {kind: Proper(own) for kind, own in load_references().items()}

    def __call__(self, files: Sequence[Path], shots: Sequence[Shot]) -> list[dict]:
        seen = looks(read_pictures(files), self.oracle)
        proper = {kind: self.proper[kind](own).tolist() for kind, own in seen.items()}
        kinds = ["style" if shot.label.lower() in KINDS["style"] else "object" for shot in shots]
        return [{"named": KINDS[kind][seen[kind].named[i]], "natural": proper[kind][i]} for i, kind in enumerate(kinds)]


class Scorer:
    """{"clip": 0..100}: how well the picture follows its prompt."""

    def __init__(self, encoder: ClipEncoder, name: str):
        self.encoder, self.name = encoder, name

    def describe(self) -> dict:
        return {"name": f"CLIP score, {self.name}", "model": weights_hash(self.encoder.model)}

    def __call__(self, files: Sequence[Path], shots: Sequence[Shot]) -> list[dict]:
        found = []
        for start in range(0, len(files), BATCH):
            part = slice(start, start + BATCH)
            scores = _clip_score_update(read_pictures(files[part]), [s.prompt for s in shots[part]], self.encoder)
            found += [{"clip": score} for score in scores.tolist()]
        return found


class Embedder:
    """{"features": (d,)} in fp32, for FID; dropped before anything is written."""

    def __init__(self, network: Callable[[Tensor], Tensor], name: str):
        self.network, self.name = network, name

    def describe(self) -> dict:
        return {"name": f"features, {self.name}"}

    def __call__(self, files: Sequence[Path], shots: Sequence[Shot]) -> list[dict]:
        # One by one: pictures made elsewhere differ in size, and no rounding then depends on the batch.
        return [{"features": self.network(read_picture(file)[None])[0].float().cpu()} for file in files]


def check_names(namer: Namer, labels: Iterable[str]) -> None:
    """ValueError where a classifier lacks a label: its concept would count as erased, whatever is drawn."""
    unknown = sorted({label for label in labels if not any(same_name(label, own) for own in namer.labels)})
    if unknown:
        raise ValueError(f"the classifier {namer.about['name']} knows no {', '.join(unknown[:5])}; choose another one")


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over a model's state, names and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def refitted(images: Tensor, size: int) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as (B, 3, size, size), as training data are brought to one size."""
    pixels = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
    return torch.stack([as_tensor(fitted(Image.fromarray(rows), size, size)) for rows in pixels])


def own_classifier(name: str, folder: Path, device: str | torch.device) -> Namer:
    """A classifier that `semu classify` or the benchmarks trained; of one without names for its classes, numbers."""
    from ..classification import PictureJudge, load_classifier

    model = load_classifier(str(folder))
    judge, size, channels = PictureJudge(model).to(device), model.image_size, model.arguments["channels"]

    @torch.no_grad()
    def classify(images: Tensor) -> Tensor:
        shown = refitted(images, size) if size and images.shape[2:] != (size, size) else images
        return judge((shown.mean(1, keepdim=True) if channels == 1 else shown).to(device)).float().cpu()

    labels = model.class_names or [str(k) for k in range(model.arguments["num_classes"])]
    return Namer(classify, labels, {"name": name, "model": weights_hash(model)})


def image_classifier(name: str = IMAGENET, device: str | torch.device = "cpu") -> Namer:
    """A classifier of transformers, from a folder or a Hub id; one of ours, from its folder; or that of cifar10.

    Raises:
        ValueError: there is none.
    """
    folder = Path(model_path(name)) / "judge" if name in SHIPPED else Path(name)
    if (folder / "model.json").is_file():
        return own_classifier(name, folder, device)
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        processor = AutoImageProcessor.from_pretrained(name)
        model = AutoModelForImageClassification.from_pretrained(name).to(device).eval()
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the classifier {name}: {str(error).strip().splitlines()[0]}") from None

    @torch.no_grad()
    def classify(images: Tensor) -> Tensor:
        pixels = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
        return model(**processor(images=list(pixels), return_tensors="pt").to(device)).logits.float().cpu()

    labels = [str(model.config.id2label.get(k, f"LABEL_{k}")) for k in range(model.config.num_labels)]
    return Namer(classify, labels, {"name": name, "model": weights_hash(model)})


def clip_namer(encoder: ClipEncoder, name: str, labels: Sequence[str]) -> Namer:
    """CLIP asked which of the labels a picture shows."""
    about = {"name": f"zero-shot CLIP, {name}", "model": weights_hash(encoder.model), "labels": list(labels)}
    return Namer(lambda images: zero_shot(images, labels, encoder), labels, about)


def feature_judge(encoder: ClipEncoder | None, name: str | None) -> Embedder | None:
    """Features for FID: Inception's where torch-fidelity is installed, else CLIP's where given, else none."""
    try:
        version("torch-fidelity")
    except PackageNotFoundError:
        return Embedder(encoder.features, f"CLIP {name}") if encoder else None
    inception = InceptionDistance().inception
    return Embedder(lambda images: inception((255 * images).round().byte()), "Inception 2048, torch-fidelity")
