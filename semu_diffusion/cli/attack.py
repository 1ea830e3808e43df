"""`semu attack`: try to get an erased concept back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .adapted import Run, takes_run
from .errors import resumable, resume_hint
from .loading import Loading, loads_model
from .options import Adapter, Resume, display, open_pipeline

Output = Annotated[Path, typer.Option(help="Folder for attacks.json; new or empty.")]
Names = Annotated[list[str] | None, typer.Option("--attack", help="Only this one. Repeatable.")]
From = Annotated[
    list[str] | None,
    typer.Option(
        help="Prompts that others found: a csv or text file, a dataset, or ring-a-bell, p4d, mma. Alone, unless "
        "--attack names more. Repeatable.",
        metavar="FILE|ID",
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Pictures per prompt that are judged.")]
Pictures = Annotated[int, typer.Option(min=1, help="Pictures of the concept that the attacker has.")]
Steps = Annotated[int, typer.Option(min=1, help="Most steps of relearning and of textual inversion.")]
Iterations = Annotated[int, typer.Option(min=1, help="Swaps of the adversarial prompt search.")]


@loads_model
@takes_run
def attack(
    adapter: Adapter,
    output: Output,
    names: Names = None,
    prompts_from: From = None,
    seeds: Seeds = 4,
    pictures: Pictures = 16,
    steps: Steps = 200,
    iterations: Iterations = 30,
    resume: Resume = False,
    *,
    run: Run,
    loading: Loading,
) -> None:
    """Attack an erased model: prompts, inversion, images, relearning, file changes.

    semu attack no-cigarette --output attacks
    """
    from ..adapter.claims import WORK, check_output, claimed
    from ..attacks.given import read_given
    from ..attacks.judge import pictograms_judge
    from ..attacks.results import FILE, read_done, write_results
    from ..attacks.suite import AttackConfig, run_attacks

    check_names(names)
    given = read_given(prompts_from or [], seeds)
    names = [*(names or ()), *given] if given else names
    if not resume:
        check_output(output, run.overwrite, "--resume to go on" if (output / FILE).is_file() else "another --output")
    looks = tuple(sorted({0, *(k for k in (10, 25, 50, 100, 200) if k < steps), steps}))
    config = AttackConfig(seeds=seeds, pictures=pictures, inversion_steps=steps, iterations=iterations,
                          relearn_steps=looks)  # fmt: skip
    with resumable(resume_hint(output, FILE)), claimed(output):
        attacker, head = attacker_of(replace(run, adapter=adapter, loading=loading), config, given)
        done = read_done(output / FILE, head) if resume else {}
        save = lambda found: write_results(output / FILE, head, found)  # noqa: E731
        save(done)  # only now, with all in order, what was there goes
        (output / WORK).mkdir(exist_ok=True)
        with display(run.quiet) as callback:
            callback.stage("pictures")
            attacker.judge = pictograms_judge(attacker.base, attacker.concept, config, work=output / WORK)
            found = run_attacks(attacker, names, done, save, callback)
        shutil.rmtree(output / WORK, ignore_errors=True)
    if run.as_json:
        print(json.dumps({**head, "attacks": found}))
    else:
        print_table(found)


def attacker_of(run: Run, config, given: dict):
    """The attacker, yet without a judge, and what attacks.json says of this run."""
    from ..attacks.suite import Attacker, Target, protocol
    from ..diffusion.concepts import vocabulary_of
    from ..diffusion.pipeline import model_path
    from ..evaluation.results import adapter_facts, concepts_of
    from ..evaluation.suites.pictograms import knows
    from ..hub.loaders import load_adapter
    from ..hub.transfer import local

    pipe = open_pipeline(run.model, run.device, run.loading)
    base, place = Target(pipe), local(run.adapter)
    about = load_adapter(pipe, place, scale=run.scale)
    concepts = run.concept or concepts_of(about)
    if len(concepts) > 1:
        raise ValueError(f"the adapter erases {', '.join(concepts)}; name one of them with --concept")
    if not knows("pictograms", run.model, concepts):
        further = "; semu eval --suite nudity --prompts draws such prompts with any model" if given else ""
        raise ValueError(
            f"no judge for {concepts[0]!r} on {run.model}; semu attack judges the concepts of pictograms{further}"
        )
    attacker = Attacker(Target(pipe), base, concepts[0], vocabulary_of(model_path(run.model)), None, config, given)
    return attacker, {"adapter": run.adapter, **adapter_facts(place, run.scale), "protocol": protocol(attacker)}


def check_names(names: list[str] | None) -> None:
    """ValueError for an unknown attack, before anything is loaded."""
    from ..attacks.suite import ATTACKS

    unknown = next((name for name in names or () if name not in ATTACKS), None)
    if unknown:
        raise ValueError(f"unknown attack {unknown!r}; known: {', '.join(ATTACKS)}")


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
