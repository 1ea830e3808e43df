"""`semu classify`: forget in a classifier, beside Retrain."""

from __future__ import annotations

import inspect
import json
import typing
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..classification.config import UnlearnConfig
from .errors import resumable
from .groups import keyword, taking
from .options import Device, Json, Overwrite, Quiet, output_folder

if TYPE_CHECKING:
    from ..classification.splits import Split

DEFAULT = UnlearnConfig(alpha=0.0)
UNSAID = ("whole_class", "share", "seed", "target_modules")  # known from the split, or no choice of most people

Net = Annotated[str, typer.Option(help="resnet18, vgg16, timm/..., a saved folder, or a transformers classifier.")]
DataSet = Annotated[str, typer.Option(help="digits, a parquet file or folder, a picture folder, or a datasets id.")]
Fraction = Annotated[float | None, typer.Option(help="Forget a random share; default: 0.1.")]
Classes = Annotated[list[str] | None, typer.Option(help="Forget a whole class, by name or number. Repeatable.")]
Index = Annotated[Path | None, typer.Option(help="Forget the training examples that a file lists.")]
Output = Annotated[Path, typer.Option(help="Folder for the adapter; new or empty.")]
Width = Annotated[int, typer.Option(min=1, help="First channels of a fresh resnet18 or vgg16.")]
Size = Annotated[int | None, typer.Option(min=1, help="Side to which pictures are resized.")]
TrainEpochs = Annotated[
    int, typer.Option(min=0, help="Epochs of the original and Retrain; 0 takes the model as it is.")
]
TrainRate = Annotated[float, typer.Option(help="Their learning rate.")]
Bf16 = Annotated[
    bool, typer.Option("--bf16", help="Train them in bfloat16, channels last: faster where the processor has it.")
]
Shadows = Annotated[int, typer.Option(min=0, help="Pairs of shadow models for RMIA; 0: no RMIA.")]
Seed = Annotated[int, typer.Option(help="Seed of split, training and unlearning.")]


@dataclass(frozen=True)
class Chosen:
    """What to forget: a share, classes, or listed examples."""

    forget_fraction: Fraction = None
    forget_class: Classes = None
    forget_index: Index = None

    def __post_init__(self) -> None:
        if sum(way not in (None, []) for way in vars(self).values()) > 1:
            raise ValueError("give one of --forget-fraction, --forget-class and --forget-index")

    def split(self, examples, seed: int) -> Split:
        """Of a data set."""
        from ..classification.labels import class_numbers
        from ..classification.splits import choose_split

        classes = class_numbers(self.forget_class or [], examples.classes)
        return choose_split(examples.train.y, self.forget_fraction, classes, self.forget_index, seed)


def options_of(cls: type) -> dict[str, inspect.Parameter]:
    """The annotated fields of a dataclass as options."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: keyword(f.name, hints[f.name], f.default) for f in fields(cls)}


def unlearning_options() -> dict[str, inspect.Parameter]:
    """One option per field of `UnlearnConfig` that is a choice here."""
    hints, own = typing.get_type_hints(UnlearnConfig), [f for f in fields(UnlearnConfig) if f.name not in UNSAID]
    specs = {f.name: Annotated[hints[f.name], typer.Option(help=f.metadata["help"])] for f in own}
    return {name: keyword(name, spec, getattr(DEFAULT, name)) for name, spec in specs.items()}


@taking("config", unlearning_options(), UnlearnConfig)
@taking("chosen", options_of(Chosen), Chosen)
def classify(
    model: Net = "resnet18",
    data: DataSet = "digits",
    *,
    chosen: Chosen,
    output: Output = Path("runs/classify"),
    overwrite: Overwrite = False,
    width: Width = 16,
    size: Size = None,
    train_epochs: TrainEpochs = 12,
    train_lr: TrainRate = 0.05,
    bf16: Bf16 = False,
    shadow_pairs: Shadows = 1,
    config: UnlearnConfig,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an image classifier forget examples or classes, and compare it with one trained without them.

    semu classify --forget-class 3
    """
    from ..adapter.claims import check_space, claimed
    from ..classification.comparison import Training, compare
    from ..classification.data import load_data
    from ..classification.models import open_classifier

    output_folder(output, overwrite)
    training = Training(train_epochs, train_lr, seed=seed, bf16=bf16, channels_last=bf16)
    with resumable(lambda: "nothing was written; run it again"), claimed(output):
        examples = load_data(data, size, seed)
        classifier = open_classifier(model, examples, width, seed, device, train_epochs > 0)
        split = chosen.split(examples, seed)
        check_space(output, 2 * state_bytes(classifier), "the model with its adapter")
        with progress(quiet) as (stage, row):
            config = replace(config, seed=seed)
            result = compare(classifier, examples, split, training, config, shadow_pairs, stage, row)
        result.save(output, model, data)
    say(result, output, as_json)


def state_bytes(model) -> int:
    """Of all that a model's file holds."""
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())


def say(result, output: Path, as_json: bool) -> None:
    """What was forgotten and how well, on stdout."""
    facts = {k: v for k, v in result.unlearning.facts.items() if k not in ("ranks", "energy")}
    split, done = result.split, facts["stop"]
    if as_json:
        print(json.dumps({"output": str(output), "training": facts, "table": result.rows, "split": split.about}))
        return
    show(result.rows)
    trained = f"{facts['trained']:,} trained numbers ({facts['trained_percent']:.2f} %)"
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
