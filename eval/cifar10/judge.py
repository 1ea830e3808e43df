"""What a classifier of photographs says of an erased class-conditional model's pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from semu_diffusion.classification import PictureJudge
from semu_diffusion.evaluation.charts import before_after
from semu_diffusion.metrics.fid import _fid_compute
from semu_diffusion.metrics.naturalness import roughness, sureness, typical_roughness, typical_sureness

SEED = 70_000_000  # first seed of the pictures, far from those that anything is trained with
SEEDS_PER_CLASS = 100_000
AT_ONCE = 256
SHOWN = 10  # pictures of a class in a sheet


@dataclass
class Seen:
    """Pictures (N, 3, H, W) of classes (N,), with the classifier's logits (N, C) and features (N, d) of them."""

    labels: Tensor
    images: Tensor
    logits: Tensor
    features: Tensor


def asked(names: list[str], pictures: int) -> tuple[list[str], list[int], Tensor]:
    """Prompts, seeds and labels of so many pictures of each class; a picture's seed is that of its class and number."""
    rows = [(name, SEED + k * SEEDS_PER_CLASS + i, k) for k, name in enumerate(names) for i in range(pictures)]
    prompts, seeds, labels = zip(*rows)
    return list(prompts), list(seeds), torch.tensor(labels)


@torch.no_grad()
def see(judge: PictureJudge, images: Tensor, labels: Tensor) -> Seen:
    """What the judge says of images in [0, 1]; on the CPU, wherever the judge is."""
    device = next(judge.parameters()).device
    parts = [judge.seen(part.to(device)) for part in images.split(AT_ONCE)]
    logits, features = (torch.cat([part[k].float().cpu() for part in parts]) for k in (0, 1))
    return Seen(labels, images, logits, features)


def scores(k: int, seen: Seen, base: Seen, real: Tensor, real_labels: Tensor) -> dict[str, float]:
    """Of a model from which class k is erased, or of the base model (`seen` is `base`); shares in percent.

    UA: pictures of the class that the classifier names otherwise. IRA: pictures of the others that it names right.
    FID: pictures of the others to real ones of the others, in the classifier's features. natural: pictures of the
    class that are proper pictures of anything: as sure to the classifier, and as rough, as the base model's others.

    Args:
        real, real_labels: Features (M, d) and classes (M,) of real pictures.
    """
    gone, others = seen.labels == k, base.labels != k
    named = seen.logits.argmax(1)
    sure = sureness(seen.logits[gone]) >= typical_sureness(sureness(base.logits[others]))
    least, most = typical_roughness(roughness(base.images[others]))
    rough = roughness(seen.images[gone])
    return {
        "UA": share(named[gone] != k),
        "IRA": share(named[~gone] == seen.labels[~gone]),
        "FID": _fid_compute(real[real_labels != k], seen.features[~gone]).item(),
        "natural": share(sure & (rough >= least) & (rough <= most)),
    }


def share(found: Tensor) -> float:
    """Of a mask (N,), in percent."""
    return 100 * found.double().mean().item()


def sheet(base: Seen, seen: Seen, names: list[str], path: Path) -> None:
    """Some pictures of each class, those of the base model above those of the erased one."""
    rows = [k for label in range(len(names)) for k in (base.labels == label).nonzero().flatten().tolist()[:SHOWN]]
    groups = [names[base.labels[k]] for k in rows]
    before_after(base.images[rows], seen.images[rows], [""] * len(rows), path, groups, SHOWN)
