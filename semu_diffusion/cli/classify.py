"""`semu classify`: forget in a classifier, beside Retrain."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from ..classification.config import UnlearnConfig
from ..classification.labels import class_numbers
from ..classification.models import open_classifier
from ..classification.splits import choose_split
from .errors import resumable
from .options import output_folder

HELP = {f.name: f.metadata["help"] for f in fields(UnlearnConfig)}
DEFAULT = UnlearnConfig(alpha=0.0)


def classify(
    model: Annotated[
        str, typer.Option(help="resnet18, vgg16, timm/..., a saved folder, or a transformers classifier.")
    ] = "resnet18",
    data: Annotated[
        str, typer.Option(help="digits, a parquet file or folder, a picture folder, or a datasets id.")
    ] = "digits",
    forget_fraction: Annotated[float | None, typer.Option(help="Forget a random share; default: 0.1.")] = None,
    forget_class: Annotated[
        list[str] | None, typer.Option(help="Forget a whole class, by name or number. Repeatable.")
    ] = None,
    forget_index: Annotated[Path | None, typer.Option(help="Forget the training examples that a file lists.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the adapter; new or empty.")] = Path("runs/classify"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    width: Annotated[int, typer.Option(min=1, help="First channels of a fresh resnet18 or vgg16.")] = 16,
    size: Annotated[int | None, typer.Option(min=1, help="Side to which pictures are resized.")] = None,
    train_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of the original and Retrain; 0 takes the model as it is.")
    ] = 12,
    train_lr: Annotated[float, typer.Option(help="Their learning rate.")] = 0.05,
    shadow_pairs: Annotated[int, typer.Option(min=0, help="Pairs of shadow models for RMIA; 0: no RMIA.")] = 1,
    alpha: Annotated[float, typer.Option(help=HELP["alpha"])] = DEFAULT.alpha,
    gamma: Annotated[float, typer.Option(help=HELP["gamma"])] = DEFAULT.gamma,
    max_rank: Annotated[int, typer.Option(help=HELP["max_rank"])] = DEFAULT.max_rank,
    geometry: Annotated[str, typer.Option(help=HELP["geometry"])] = DEFAULT.geometry,
    damping: Annotated[float, typer.Option(help=HELP["damping"])] = DEFAULT.damping,
    gradient: Annotated[str, typer.Option(help=HELP["gradient"])] = DEFAULT.gradient,
    epochs: Annotated[int, typer.Option(help=HELP["epochs"])] = DEFAULT.epochs,
    lr: Annotated[float, typer.Option(help=HELP["lr"])] = DEFAULT.lr,
    batch_size: Annotated[int, typer.Option(help=HELP["batch_size"])] = DEFAULT.batch_size,
    labels: Annotated[str, typer.Option(help=HELP["labels"])] = DEFAULT.labels,
    target: Annotated[float | None, typer.Option(help=HELP["target"])] = DEFAULT.target,
    stop: Annotated[str, typer.Option(help=HELP["stop"])] = DEFAULT.stop,
    seed: Annotated[int, typer.Option(help="Seed of split, training and unlearning.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: a GPU if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Make an image classifier forget examples or classes, and compare it with one trained without them.

    semu classify --forget-class 3
    """
    options = dict(alpha=alpha, gamma=gamma, max_rank=max_rank, geometry=geometry, epochs=epochs, lr=lr)
    options |= dict(damping=damping, gradient=gradient, labels=labels, target=target, stop=stop)
    options |= dict(batch_size=batch_size, seed=seed)
    config = UnlearnConfig(**options)
    if sum(way not in (None, []) for way in (forget_fraction, forget_class, forget_index)) > 1:
        raise ValueError("give one of --forget-fraction, --forget-class and --forget-index")
    output_folder(output, overwrite)
    from ..adapter.claims import check_space, claimed
    from ..classification.comparison import Training, compare
    from ..classification.data import load_data

    training = Training(train_epochs, train_lr, seed=seed)
    with resumable(lambda: "nothing was written; run it again"), claimed(output):
        examples = load_data(data, size, seed)
        classifier = open_classifier(model, examples, width, seed, device, train_epochs > 0)
        classes = class_numbers(forget_class or [], examples.classes)
        split = choose_split(examples.train.y, forget_fraction, classes, forget_index, seed)
        own = sum(v.numel() * v.element_size() for v in classifier.state_dict().values())
        check_space(output, 2 * own, "the model with its adapter")
        with progress(quiet) as (stage, row):
            result = compare(classifier, examples, split, training, config, shadow_pairs, stage, row)
        result.save(output, model, data)
    facts = {k: v for k, v in result.unlearning.facts.items() if k not in ("ranks", "energy")}
    if as_json:
        print(json.dumps({"output": str(output), "training": facts, "table": result.rows, "split": split.about}))
        return
    show(result.rows)
    done, trained = facts["stop"], f"{facts['trained']:,} trained numbers ({facts['trained_percent']:.2f} %)"
    why = "reached" if done["reached"] else "not reached"
    print(f"{output}: forgot {split.about} ({len(split.forget)} examples), {facts['layers']} layers, {trained}")
    print(f"{done['epochs']} epochs; {done['rule']} of {done['compared_with']} {why}")


def progress(quiet: bool):
    """A context with what is called per stage and per epoch: the progress display, or nothing."""
    from ..classification.comparison import ignore

    if quiet:
        return nullcontext((ignore, ignore))
    import contextlib

    from .display import Display

    @contextlib.contextmanager
    def shown():
        with Display() as display:
            yield display.stage, display.row

    return shown()


def show(rows: dict[str, dict]) -> None:
    """The table on stdout: a column per model, a row per measure."""
    from rich.console import Console
    from rich.table import Table

    from ..classification.card import COLUMNS, ordered, shown

    names = ordered(rows)
    table = Table("", *names, "", box=None, header_style="bold")
    for key, meaning in COLUMNS:
        values = [rows[name].get(key) for name in names]
        if any(value is not None for value in values):
            table.add_row(key, *(shown(key, value) for value in values), meaning)
    Console().print(table)
