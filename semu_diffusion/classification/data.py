"""Labelled inputs: in memory or any torch dataset; scikit-learn's digits, the Hub, parquet files, picture folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

Augment = Callable[[Tensor, torch.Generator], Tensor]  # (B, ...) -> (B, ...)


class Examples(Dataset):
    """Inputs (N, ...) and labels (N,) in memory, taken singly or by an index tensor.

    uint8 pictures (N, C, H, W) become floats (x / 255 - mean) / std as they are taken, with one mean and std per
    channel; other inputs stay as they are.
    """

    def __init__(self, x: Tensor, y: Tensor, mean: float | list[float] = 0.5, std: float | list[float] = 0.5):
        if len(x) != len(y):
            raise ValueError(f"expected as many labels as inputs, got {len(y)} for {len(x)}")
        self.x, self.y = x, y.long() if not y.is_floating_point() else y
        self.mean, self.std = (torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (mean, std))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        return (x / 255 - self.mean) / self.std if x.dtype == torch.uint8 else x, self.y[index]


@dataclass
class Data:
    """What a comparison needs; `held_out` is neither trained on nor reported on, `augment` is for training."""

    train: Examples
    held_out: Examples
    test: Examples
    classes: list[str]
    name: str
    augment: Augment | None = None


def as_dataset(data) -> Dataset:
    """(inputs, labels), a TensorDataset or any dataset of (input, label), as one that `take` reads."""
    if isinstance(data, (tuple, list)):
        return Examples(*data)
    return Examples(*data.tensors) if isinstance(data, TensorDataset) else data


def take(dataset: Dataset, index: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (B, ...) and labels (B,) at an index (B,)."""
    if isinstance(dataset, Subset):
        return take(dataset.dataset, torch.as_tensor(dataset.indices)[index])
    if isinstance(dataset, Examples):
        return dataset[index]
    rows = [dataset[i] for i in index.tolist()]
    if isinstance(rows[0], dict):  # as image processors of transformers give them
        label = "labels" if "labels" in rows[0] else "label"
        rows = [(row["pixel_values"], row[label]) for row in rows]
    x, y = default_collate([(row[0], int(row[1])) for row in rows])
    return x, y


def batches(dataset: Dataset, size: int, index: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The dataset in its own order, or that of an index, `size` examples at a time."""
    index = torch.arange(len(dataset)) if index is None else index
    for part in index.split(size):
        yield take(dataset, part)


def labels_of(dataset: Dataset) -> Tensor:
    """All labels (N,)."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices)]
    return dataset.y if isinstance(dataset, Examples) else torch.cat([y for _, y in batches(dataset, 256)])


def overlap(a: Dataset, b: Dataset) -> int:
    """How many examples two datasets share: by index where both are parts of one, else by the inputs' bytes."""
    (base, left), (other, right) = _origin(a), _origin(b)
    if base is other:
        return len(set(left) & set(right))
    return len(_digests(a) & _digests(b))


def _origin(dataset: Dataset) -> tuple[Dataset, list[int]]:
    if not isinstance(dataset, Subset):
        return dataset, list(range(len(dataset)))
    base, index = _origin(dataset.dataset)
    return base, [index[i] for i in dataset.indices]


def _digests(dataset: Dataset) -> set[int]:
    return {hash(row.numpy().tobytes()) for x, _ in batches(dataset, 256) for row in x}


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, C, H, W) moved by up to an eighth of their side, the border repeated; other inputs get noise."""
    if x.ndim != 4:
        return x + 0.1 * x.std() * torch.randn(x.shape, generator=generator)
    reach = [max(1, side // 8) for side in x.shape[2:]]
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]), mode="replicate")
    corners = [torch.randint(2 * r + 1, (len(x),), generator=generator) for r in reach]
    rows, columns = (c[:, None] + torch.arange(side) for c, side in zip(corners, x.shape[2:]))  # (B, H), (B, W)
    picture = torch.arange(len(x))[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """`shifted`, and every second picture mirrored at random: for photographs, not for digits."""
    flip = torch.rand(len(x), generator=generator) < 0.5
    return shifted(torch.where(flip[:, None, None, None], x.flip(3), x), generator)


def load_data(source: str = "digits", size: int | None = None, seed: int = 0) -> Data:
    """Training, held-out and test examples of "digits", a parquet file or folder of them, pictures, or a Hub dataset.

    A tenth of the training split is held out; without a test split, a fifth is set aside for it first.

    Args:
        size: Side to which pictures are resized; default: that of the first one.

    Raises:
        ValueError: nothing there, no picture or label column, or a missing package, with its extra.
    """
    if source == "digits":
        return load_digits(seed)
    splits = load_splits(source)
    name = next((n for n in ("train", "training") if n in splits), next(iter(splits)))
    classes = class_names(splits[name], source)
    x, y = pictures(splits[name], size, source)
    test = next((splits[n] for n in ("test", "validation", "valid") if n in splits and n != name), None)
    if test is None:
        rest, aside = draw_apart(y, 0.2, seed)
        (x, y), tested = (x[rest], y[rest]), (x[aside], y[aside])
    else:
        tested = pictures(test, x.shape[-1], source)
    kept, held = draw_apart(y, 0.1, seed)
    parts = [Examples(x[kept], y[kept]), Examples(x[held], y[held]), Examples(*tested)]
    return Data(*parts, classes, source, mirrored)


def load_digits(seed: int = 0) -> Data:
    """1,797 scans of handwritten digits, 8 x 8, that come with scikit-learn: a fifth for test, a tenth held out."""
    try:
        from sklearn import datasets
    except ImportError:
        raise ValueError("the digits need scikit-learn: pip install 'semu-diffusion[classify]'") from None
    digits = datasets.load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 8 - 1  # (N, 1, 8, 8), 0..16 -> -1..1
    y = torch.from_numpy(digits.target).long()
    rest, test = draw_apart(y, 0.2, seed)
    kept, held = draw_apart(y[rest], 0.1, seed)
    parts = [Examples(x[i], y[i]) for i in (rest[kept], rest[held], test)]
    return Data(*parts, [str(c) for c in range(10)], "digits")


def draw_apart(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the rest and of a random share of each class, ascending."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn = [of[: max(1, round(share * len(of)))] for c in labels.unique() if len(of := order[labels[order] == c])]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(drawn)] = True
    return torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()


def load_splits(source: str):
    """The DatasetDict of a parquet file, a folder of parquet files or pictures, or a Hub id."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError("data sets need the datasets package: pip install 'semu-diffusion[classify]'") from None
    path = Path(source)
    try:
        if path.is_file():
            return load_dataset("parquet", data_files={"train": str(path)})
        files = {f.stem.split("-")[0]: str(path / f"{f.stem.split('-')[0]}*.parquet") for f in path.glob("*.parquet")}
        if files:
            return load_dataset("parquet", data_files=files)
        return load_dataset("imagefolder", data_dir=source) if path.is_dir() else load_dataset(source)
    except Exception as error:  # the library raises a dozen kinds, from ConnectionError to its own
        raise ValueError(f"cannot read the data {source!r}: {' '.join(str(error).split())[:300]}") from None


def columns(split, source: str) -> tuple[str, str]:
    """The names of the picture and of the label column."""
    kinds = {name: type(kind).__name__ for name, kind in split.features.items()}
    picture = next((n for n, kind in kinds.items() if kind == "Image"), None)
    label = next((n for n, kind in kinds.items() if kind == "ClassLabel"), None)
    label = label or next((n for n in ("label", "labels", "fine_label", "target") if n in kinds), None)
    if picture is None or label is None:
        raise ValueError(f"{source} needs a column of pictures and one of labels; it has {', '.join(kinds)}")
    return picture, label


def class_names(split, source: str) -> list[str]:
    """The names of the classes, or their numbers."""
    label = columns(split, source)[1]
    known = getattr(split.features[label], "names", None)
    return known or [str(c) for c in range(max(split[label]) + 1)]


def pictures(split, size: int | None, source: str) -> tuple[Tensor, Tensor]:
    """All pictures, uint8 (N, 3, size, size), and labels (N,)."""
    import numpy as np

    picture, label = columns(split, source)
    rows = []
    for image in split[picture]:
        size = size or image.width
        image = image.convert("RGB")
        rows.append(np.asarray(image if image.size == (size, size) else image.resize((size, size))))
    if not rows:
        raise ValueError(f"{source} holds no pictures")
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous(), torch.tensor(split[label])
