"""Labelled inputs: in memory or any torch dataset; scikit-learn's digits, the Hub, parquet files, picture folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from ..inputs.datasets import LABELS, kinds, load_splits, picture_column, stored_picture, undecoded
from ..inputs.labels import encode, whole
from ..inputs.pictures import fitted

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
    x, y = default_collate([(row[0], whole(row[1], i, "the data")) for i, row in zip(index.tolist(), rows)])
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
        size: Side to which pictures are resized, and cropped; default: that of the first one.

    Raises:
        ValueError: nothing there, no picture or label column, a missing or odd label, or a missing package.
    """
    if source == "digits":
        return load_digits(seed)
    splits = load_splits(source)
    name = next((n for n in ("train", "training") if n in splits), next(iter(splits)))
    y, classes = labels(splits[name], None, source)
    x = pictures(splits[name], size, source)
    test = next((splits[n] for n in ("test", "validation", "valid") if n in splits and n != name), None)
    if test is None:
        rest, aside = draw_apart(y, 0.2, seed)
        (x, y), tested = (x[rest], y[rest]), (x[aside], y[aside])
    else:
        y_test, _ = labels(test, classes, f"{source}, test split")
        tested = pictures(test, x.shape[-1], source), y_test
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


def label_column(split, source: str) -> str:
    """The name of the column of labels. ValueError where there is none."""
    found = next((name for name, kind in kinds(split).items() if kind == "label"), None)
    found = found or next((n for n in split.features if str(n).strip().lower() in LABELS), None)
    if found is None:
        raise ValueError(f"{source} needs a column of labels ({', '.join(LABELS)}); it has {', '.join(split.features)}")
    return found


def labels(split, classes: list[str] | None, source: str) -> tuple[Tensor, list[str]]:
    """Labels (N,) and the names of the classes, of which those of the training split are given for another one."""
    if not len(split):
        raise ValueError(f"{source} holds no pictures")
    column = label_column(split, source)
    values, own = list(split[column]), getattr(split.features[column], "names", None)
    if own and classes is not None and own != classes:  # the same names may stand in another order
        _, own = encode(values, own, source)  # says what is missing or out of range
        values = [own[k] for k in values]
    return encode(values, classes or own, source)


def pictures(split, size: int | None, source: str) -> Tensor:
    """All pictures, uint8 (N, 3, size, size)."""
    column = picture_column(split, source)
    rows = []
    for k, stored in enumerate(undecoded(split, column)[column]):
        image = stored_picture(stored, f"row {k} of {source}")
        size = size or image.width
        rows.append(np.asarray(fitted(image, size, size)))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
