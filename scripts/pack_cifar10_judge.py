"""Writes the judge of the embedded model `cifar10`: a trained classifier in half precision, with its classes' names.

    python -m eval.classification.benchmark --width 16 --epochs 20 --bf16 --channels-last --until models
    python scripts/pack_cifar10_judge.py --classifier CACHE/original-0 --data FOLDER

Beside the weights it leaves a card, with the share of the test pictures that they name right as they are written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from semu_diffusion.adapter.weights import save_atomic, write_atomic
from semu_diffusion.classification import PictureJudge, load_classifier, load_data
from semu_diffusion.diffusion.pipeline import model_path

CARD = """---
pipeline_tag: image-classification
tags: [cifar10, toy-scale, unlearning-benchmark]
---

# Classifier of what the model beside it draws

A {net} of width {width}, in fp16, for pictures of {size} x {size} pixels; names {right:.2f} % of {tests:,} test
pictures right. `semu eval --classifier` takes this folder, and takes it by itself where `cifar10` is measured. Trained
on CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images") by

    {trained}

and packed by `scripts/pack_cifar10_judge.py`. Classes by number: {names}.
"""
TRAINED = "python -m eval.classification.benchmark --width 16 --epochs 20 --bf16 --channels-last --until models"


def pack(source: Path, folder: Path, names: list[str], size: int) -> None:
    """The classifier of a folder, in fp16, with names and the side of the pictures that it is for."""
    about = json.loads((source / "model.json").read_text())
    half = {key: value.half() if value.is_floating_point() else value
            for key, value in load_classifier(str(source)).state_dict().items()}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_atomic(half, folder / "model.safetensors")
    about |= {"class_names": names, "image_size": size}
    write_atomic(folder / "model.json", json.dumps(about, indent=1) + "\n")


@torch.no_grad()
def accuracy(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of uint8 pictures (N, 3, H, W) that the classifier of a folder names right, in percent."""
    judge = PictureJudge(load_classifier(str(folder)))
    named = torch.cat([judge(part / 255).argmax(1) for part in images.split(500)])
    return 100 * (named == labels).double().mean().item()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classifier", type=Path, required=True, help="folder of a classifier that was trained")
    parser.add_argument("--data", default="../shared/data/cifar10", help="its data, for names and test pictures")
    parser.add_argument("--output", type=Path, default=Path(model_path("cifar10")) / "judge")
    args = parser.parse_args(arguments)
    data = load_data(args.data)
    pack(args.classifier, args.output, data.classes, data.test.x.shape[-1])
    right = round(accuracy(args.output, data.test.x, data.test.y), 2)
    facts = {"trained": TRAINED, "test_pictures": len(data.test.y), "test_accuracy": right}
    write_atomic(args.output / "check.json", json.dumps(facts, indent=1) + "\n")
    about = json.loads((args.output / "model.json").read_text())
    classes = ", ".join(f"{k} {name}" for k, name in enumerate(data.classes))
    card = CARD.format(net=about["model"], width=about["arguments"]["width"], size=about["image_size"], right=right,
                       tests=len(data.test.y), trained=TRAINED, names=classes)  # fmt: skip
    write_atomic(args.output / "README.md", card)
    print(f"{args.output}: names {right:.2f} % of {len(data.test.y):,} test pictures right")


if __name__ == "__main__":
    main()
