"""The single steps of the benchmark: data, trained models and measured rows, each kept in a cache folder.

Every step runs in any process and finds there what the steps before it left.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset

from semu_diffusion.adapter.weights import save_atomic, write_atomic
from semu_diffusion.classification import (
    Examples,
    Split,
    class_split,
    fit,
    load_classifier,
    load_data,
    predict,
    random_split,
    save_classifier,
)
from semu_diffusion.classification.comparison import Parts
from semu_diffusion.classification.data import Data, draw_apart, labels_of, mirrored
from semu_diffusion.classification.unlearning import less_trained
from semu_diffusion.metrics.membership import true_confidence

from ..peers.classification import PEERS, Budget, bill
from ..peers.classification.common import hits

SETTINGS = {"random10": 0.1, "random50": 0.5, "class": None}  # name -> share of the training set, None: one class
SEARCH_SEED = 1009  # model, split and class (9) of the hyper-parameter search; no reported seed
NOTHING, RETRAIN = "Original", "Retrain"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Options:
    """What the numbers depend on, and where the cache is.

    Args:
        data: "digits", or a folder with train.parquet and test.parquet of pictures (CIFAR-10).
        subset: Training pictures, a tenth of them for validation; half as many test pictures. None: all.
        arch: "resnet18" or "vgg16".
        width: First channels of the net.
        epochs, lr: Of the original, Retrain and the shadow models.
        passes: Budget with retain data: passes over the whole training set.
        forget_passes: Budget without: passes over the forget set.
        shadow_pairs: Pairs of shadow models for RMIA.
        bf16, channels_last: How these models are trained; unlearning is in float32.
    """

    data: str
    subset: int | None = None
    arch: str = "resnet18"
    width: int = 16
    epochs: int = 15
    lr: float = 0.05
    batch_size: int = 64
    passes: int = 2
    forget_passes: int = 10
    shadow_pairs: int = 1
    bf16: bool = False
    channels_last: bool = False
    device: str = "cpu"
    cache: str = "~/.cache/semu-eval/classification"

    def facts(self) -> dict:
        """Without what changes no number."""
        return {k: v for k, v in asdict(self).items() if k != "cache"}


# ------------------------------------------------------------------------------------------------------ data


def available(data: str) -> bool:
    """Whether the data are there."""
    return data == "digits" or all((Path(data) / f"{name}.parquet").is_file() for name in ("train", "test"))


@cache
def data_of(options: Options) -> Data:
    """Training, validation (held-out) and test pictures; decoded once, then read from the cache."""
    if options.data == "digits":
        data = load_data("digits")
        return Data(cut(data.train, options.subset), data.held_out, data.test, data.classes, data.name)
    file = Path(options.cache) / "data.safetensors"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        half = options.subset and options.subset // 2
        train, test = (decode(Path(options.data) / f"{k}.parquet", n)
                       for k, n in (("train", options.subset), ("test", half)))  # fmt: skip
        kept, held = draw_apart(train[1], 0.1, 0)
        parts = {"train": (train[0][kept], train[1][kept]), "held": (train[0][held], train[1][held]), "test": test}
        save_atomic({f"{k}.{n}": t.contiguous() for k, pair in parts.items() for n, t in zip("xy", pair)}, file)
    stored = load_file(file)
    parts = [Examples(stored[f"{k}.x"], stored[f"{k}.y"]) for k in ("train", "held", "test")]
    return Data(*parts, CIFAR10, Path(options.data).name, mirrored)


def cut(examples: Examples, count: int | None) -> Examples:
    """The first examples."""
    return Examples(examples.x[:count], examples.y[:count])


def decode(file: Path, count: int | None) -> tuple[Tensor, Tensor]:
    """Pictures, uint8 (N, 3, H, W), and labels (N,) of a random part of a parquet file, the same each time."""
    import numpy as np
    from PIL import Image
    from pyarrow import parquet

    table = parquet.read_table(file, columns=["img", "label"])
    chosen = torch.randperm(table.num_rows, generator=torch.Generator().manual_seed(0))[:count].numpy()
    rows = table.take(chosen).to_pydict()
    arrays = [np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB")) for image in rows["img"]]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2), torch.tensor(rows["label"])


def split_of(options: Options, setting: str, seed: int) -> Split:
    """What is forgotten: a random share drawn from the seed, or class seed mod 10."""
    data = data_of(options)
    if SETTINGS[setting] is None:
        return class_split(data.train.y, seed % len(data.classes))
    return random_split(data.train.y, SETTINGS[setting], seed)


def parts_of(options: Options, setting: str, seed: int) -> Parts:
    """The sets of a run; for the search the validation set stands for the test set."""
    data = data_of(options)
    if seed == SEARCH_SEED:
        data = Data(data.train, data.held_out, data.held_out, data.classes, data.name, data.augment)
    return Parts(data, split_of(options, setting, seed))


# ---------------------------------------------------------------------------------------------------- models


def model_names(options: Options, settings: list[str], seeds: list[int]) -> list[str]:
    """All models that must be trained, those that are needed first in front: per seed original and Retrain; shadows."""
    seeds = [*seeds[:1], SEARCH_SEED, *seeds[1:]]
    shadows = [f"shadow-{k}" for k in range(2 * options.shadow_pairs)]
    return [name for s in seeds for name in (f"original-{s}", *(f"retrain-{s}-{k}" for k in settings))] + shadows


def train_model(options: Options, name: str, threads: int = 1) -> str:
    """Trains a model into the cache, unless it is there; returns a line for the terminal.

    A run that is stopped goes on behind its last whole epoch. The seconds are those of the processor where that is
    what computes, so that other programs beside this one do not count.
    """
    torch.set_num_threads(threads)
    folder = Path(options.cache) / name
    if (folder / "about.json").is_file():
        return f"{name}: in the cache"
    data, (kind, number, *setting) = data_of(options), name.split("-")
    channels, seed = data.train[0][0].shape[0], int(number)
    model = load_classifier(options.arch, len(data.classes), channels, options.width, seed).to(options.device)
    log = Log(folder.with_name(f"{name}.log.json"), clock(options), lambda: hits(model, data.held_out))
    how = {"bf16": options.bf16, "channels_last": options.channels_last, "report": log}
    how["checkpoint"] = folder.with_name(f"{name}.state.safetensors")
    if kind == "retrain":
        parts = parts_of(options, setting[0], seed)
        budget = budget_of(options, setting[0], parts, alone=False)
        PEERS[RETRAIN](model, parts.forget, parts.retain, budget, seed, epochs=options.epochs, lr=options.lr, **how)
    else:
        examples = data.train if kind == "original" else halves(options)[seed]
        fit(model, examples, options.epochs, options.lr, options.batch_size, augment=data.augment, seed=seed, **how)
    judged = {k: confidence(model, part) for k, part in (("train", data.train), ("test", data.test))}
    facts = {"seconds": log.seconds, "unseen": hits(model, data.held_out), "test": hits(model, data.test)}
    facts |= {"epochs": log.rows}
    temporary = folder.with_name(f"{name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_classifier(model.cpu().to(memory_format=torch.contiguous_format), temporary)
    save_atomic(judged, temporary / "confidence.safetensors")
    write_atomic(temporary / "about.json", json.dumps(facts))
    shutil.rmtree(folder, ignore_errors=True)  # an unfinished one
    temporary.replace(folder)
    how["checkpoint"].unlink(missing_ok=True)
    log.file.unlink(missing_ok=True)
    return f"{name}: {facts['seconds']:.0f} s, test accuracy {100 * facts['test']:.2f}"


def clock(options: Options) -> Callable[[], float]:
    """Seconds of this process on the processor; by the wall where a GPU computes."""
    return time.process_time if options.device == "cpu" else time.time


class Log:
    """A row per epoch with the seconds so far and the accuracy on the validation set, kept in a file over a stop."""

    def __init__(self, file: Path, now: Callable[[], float], unseen: Callable[[], float]):
        self.file, self.now, self.unseen = file, now, unseen
        self.rows = json.loads(file.read_text()) if file.is_file() else []
        self.started = now() - self.seconds

    @property
    def seconds(self) -> float:
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def __call__(self, row: dict) -> None:
        """Told by `fit` of each epoch; measuring does not count as training."""
        seconds = self.now() - self.started
        before = [r for r in self.rows if r["epoch"] < row["epoch"]]  # a stop between checkpoint and log repeats none
        self.rows = [*before, {**row, "seconds": seconds, "unseen": self.unseen()}]
        self.started = self.now() - seconds
        write_atomic(self.file, json.dumps(self.rows))


def confidence(model: nn.Module, examples: Examples | Subset) -> Tensor:
    """The model's confidence in the true labels, (N,)."""
    return true_confidence(predict(model, examples), labels_of(examples))


def halves(options: Options) -> list[Subset]:
    """Training sets of the shadow models: complementary halves of training and test data."""
    return parts_of(options, next(iter(SETTINGS)), 0).halves(options.shadow_pairs, 0)


def load(options: Options, name: str) -> tuple[nn.Module, dict]:
    """A trained model and what is known about it."""
    folder = Path(options.cache) / name
    return load_classifier(str(folder)).to(options.device), json.loads((folder / "about.json").read_text())


def shadows_of(options: Options, parts: Parts) -> list[tuple[Tensor, Tensor]]:
    """The shadow models' confidences on the forget and the test set of a run."""
    found = []
    for k in range(2 * options.shadow_pairs):
        judged = load_file(Path(options.cache) / f"shadow-{k}" / "confidence.safetensors")
        found.append((judged["train"][parts.forget.indices], judged["test"][parts.test.indices]))
    return found


# ------------------------------------------------------------------------------------------------------ rows


def budget_of(options: Options, setting: str, parts: Parts, alone: bool, unseen: float | None = None) -> Budget:
    """The same for every method of a table; `unseen` is the original's accuracy on unseen data."""
    whole = ConcatDataset([parts.forget, parts.retain])
    examples = options.forget_passes * len(parts.forget) if alone else options.passes * len(whole)
    expected = unseen and less_trained("accuracy", unseen, len(parts.forget) / len(whole))
    return Budget(examples, options.batch_size, parts.data.augment, SETTINGS[setting] is None, expected)


def run_row(options: Options, job: dict, threads: int = 1) -> dict:
    """One method on one split: the job (table, setting, method, seed, hyper) with measures, or why there are none."""
    torch.set_num_threads(threads)
    setting, seed, method = job["setting"], job["seed"], job["method"]
    parts, alone = parts_of(options, setting, seed), job["table"] == "forget"
    model, about = load(options, f"original-{seed}")
    retrain, retrain_about = load(options, f"retrain-{seed}-{setting}")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    now = clock(options)
    own, started = sum(p.numel() for p in model.parameters()), now()
    try:
        if method == RETRAIN:
            model = retrain
        elif method != NOTHING:
            budget = budget_of(options, setting, parts, alone, about["unseen"])
            retain = None if alone else parts.retain
            model = PEERS[method](model, parts.forget, retain, budget, seed, **job["hyper"])
        seconds = retrain_about["seconds"] if method == RETRAIN else now() - started
        shadows = [] if seed == SEARCH_SEED else shadows_of(options, parts)
        measured = {**parts.measures(model, shadows), "KL": parts.divergence(model, retrain), "seconds": seconds}
    except (FloatingPointError, ValueError) as error:
        if isinstance(error, ValueError) and "finite" not in str(error):
            raise
        return {**job, "failed": str(error)}  # diverged
    cost = bill(model, before)
    return {**job, **measured, **cost, "trained_percent": 100 * cost["trained"] / own}
