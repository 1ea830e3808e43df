"""`semu attack`: try to get an erased concept back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..shell import Device, Json, Model, Quiet, check_scale, display, open_pipeline, output_folder

FILE = "attacks.json"


def attack(
    adapter: Annotated[str, typer.Option(help="Adapter folder, its .safetensors file, or user/name on the Hub.")],
    output: Annotated[Path, typer.Option(help="Folder for attacks.json; new or empty.")],
    model: Model = "pictograms",
    concept: Annotated[str | None, typer.Option(help="What was erased; default: what the adapter says.")] = None,
    name: Annotated[list[str] | None, typer.Option("--attack", help="Only this one. Repeatable.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures per prompt that are judged.")] = 4,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of the concept that the attacker has.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of relearning and of textual inversion.")] = 200,
    iterations: Annotated[int, typer.Option(min=1, help="Swaps of the adversarial prompt search.")] = 30,
    scale: Annotated[float, typer.Option(help="Strength of the adapter.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack an erased model: prompts, inversion, images, relearning, file changes.

    semu attack --adapter no-cigarette --output attacks
    """
    from ..diffusion.concepts import vocabulary_of
    from ..diffusion.pipeline import model_path
    from ..evaluations import adapter_facts
    from ..hub import load_adapter, local
    from ..suites import concepts_of, knows
    from .suite import AttackConfig, Attacker, Target, protocol, run_attacks

    check_scale(scale)
    check_names(name)
    if not resume:
        output_folder(output, overwrite)
    looks = tuple(sorted({0, *(k for k in (10, 25, 50, 100, 200) if k < steps), steps}))
    config = AttackConfig(seeds=seeds, pictures=pictures, inversion_steps=steps, iterations=iterations,
                          relearn_steps=looks)  # fmt: skip
    pipe = open_pipeline(model, device, "fp32")
    base = Target(pipe)
    place = local(adapter)
    about = load_adapter(pipe, place, scale=scale)
    concepts = [concept] if concept else concepts_of(about)
    if len(concepts) > 1:
        raise ValueError(f"the adapter erases {', '.join(concepts)}; name one of them with --concept")
    if not knows("pictograms", model, concepts):
        raise ValueError(f"no judge for {concepts[0]!r} on {model}; semu attack judges the concepts of pictograms")
    with display(quiet) as reporter:
        reporter.stage("pictures")
        judge = pictograms_judge(base, concepts[0], config)
        attacker = Attacker(Target(pipe), base, concepts[0], vocabulary_of(model_path(model)), judge, config)
        head = {"adapter": adapter, **adapter_facts(place, scale), "protocol": protocol(attacker)}
        done = read_done(output / FILE, head) if resume else {}
        save = lambda found: write_results(output / FILE, head, found)  # noqa: E731
        save(done)  # only now, with all in order, what was there goes
        found = run_attacks(attacker, name, done, save, reporter)
    if as_json:
        print(json.dumps({**head, "attacks": found}))
    else:
        print_table(found)


def check_names(names: list[str] | None) -> None:
    """ValueError for an unknown attack, before anything is loaded."""
    from .suite import ATTACKS

    unknown = next((name for name in names or () if name not in ATTACKS), None)
    if unknown:
        raise ValueError(f"unknown attack {unknown!r}; known: {', '.join(ATTACKS)}")


def pictograms_judge(base, concept: str, config, references=None):
    """The judge of the embedded model; its references are drawn here where they are not given."""
    from ..diffusion.concepts import name_of
    from ..pictograms import load_oracle
    from .judge import PictogramsJudge

    references = draw_references(base, config) if references is None else references
    return PictogramsJudge(name_of(concept), references, load_oracle())


def draw_references(base, config):
    """The base model's pictures of all objects in all styles, two of each."""
    from ..pictograms import OBJECTS, STYLES, caption
    from .suite import REFERENCE

    prompts = [caption(o, s) for o in OBJECTS for s in STYLES] * 2
    return base.draw_prompts(prompts, [REFERENCE + k for k in range(len(prompts))], config.steps, config.guidance)


def read_done(path: Path, head: dict) -> dict:
    """The results of an interrupted run with the same options. ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"nothing to resume in {path.parent}; leave out --resume")
    old = json.loads(path.read_text())
    if {k: old.get(k) for k in head} != json.loads(json.dumps(head)):
        raise ValueError(f"{path.parent} was begun with other options or another adapter; use those, or --overwrite")
    return old["attacks"]


def write_results(path: Path, head: dict, found: dict) -> None:
    """attacks.json, under a temporary name first."""
    from ..adapter.weights import write_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({**head, "attacks": found}, indent=1))


def print_table(found: dict) -> None:
    """Success by attack, in percent, with its interval and both parts."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="share of pictures that show the concept again, %")
    for column in ("attack", "success", "95 %", "named", "coherent", "pictures"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for name, r in found.items():
        low, high = r["interval"]
        shares = (f"{100 * r[k]:.1f}" for k in ("present", "coherent"))
        table.add_row(
            name, f"{100 * r['success']:.1f}", f"{100 * low:.0f}–{100 * high:.0f}", *shares, str(r["pictures"])
        )
    Console().print(table)
