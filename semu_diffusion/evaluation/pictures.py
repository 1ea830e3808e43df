"""Picture files: written whole or not at all, read as tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..adapter.files import replacing, write_atomic
from ..inputs.pictures import read_picture
from ..metrics.drift import check_images

END = b"IEND\xaeB\x60\x82"  # the last eight bytes of every PNG


def as_saved(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] as an 8-bit file would give them back, so that no figure depends on saving."""
    return (255 * images).round() / 255


def write_picture(image: Tensor, file: Path) -> None:
    """(3, H, W) in [0, 1] as a PNG, under a temporary name first."""
    check_images(image[None])
    with replacing(file) as opened:
        Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().cpu().numpy()).save(opened, "PNG")


def is_whole(file: Path) -> bool:
    """Whether a PNG is there to its end; one that was cut off is made again."""
    try:
        with open(file, "rb") as opened:
            opened.seek(-len(END), os.SEEK_END)
            return opened.read() == END
    except OSError:  # absent, or shorter than that
        return False


def read_pictures(files: Iterable[str | Path]) -> Tensor:
    """Pictures of one size, (N, 3, H, W). ValueError where one has another."""
    images = [read_picture(file) for file in files]
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise ValueError(f"expected pictures of one size, got {sorted(sizes)}")
    return torch.stack(images)


def write_gallery(
    base_images: Tensor, erased_images: Tensor, titles: Sequence[str], groups: Sequence[str], folder: Path
) -> None:
    """The pictures of `before_after` as files under `gallery/`, and records.json that lists them for the report."""
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    records: dict[str, list[dict]] = {"base": [], "erased": []}
    for side, images in (("base", base_images), ("erased", erased_images)):
        for i, (image, title, group) in enumerate(zip(images, titles, groups)):
            file = f"gallery/{side}-{i:02d}.png"
            write_picture(image, folder / file)
            records[side].append({"file": file, "label": title, "group": group})
    write_atomic(folder / "records.json", json.dumps(records))
