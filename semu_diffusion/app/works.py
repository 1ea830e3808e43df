"""The jobs of the page, each over the functions that the shell's command calls."""

from __future__ import annotations

import base64
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..callbacks import Callback
from .desk import Desk, Model, Request, Worn
from .jobs import Job, Teller
from .pictures import pairs_of

SHARE = 0.1  # of the time of a training that its pictures may take


@dataclass
class Draw(Job):
    """Pictures before and after, as `semu generate` draws them; without adapters, those of the base model."""

    model: Model
    request: Request
    adapters: list[Worn] = field(default_factory=list)

    def run(self, desk: Desk, callback: Teller) -> list[dict]:
        desk.pipeline(self.model, callback)
        desk.wear(self.adapters)
        callback.stage("drawing before", self.request.count)
        before, after = desk.draw_base(self.request, callback), None
        if self.adapters:
            callback.stage("drawing after", self.request.count)
            after = desk.draw(self.request, callback)
        return pairs_of(before, after, [f"seed {self.request.seed + k}" for k in range(self.request.count)])


@dataclass
class Check(Job):
    """Whether an adapter is one for this model, and what it erases."""

    model: Model
    place: Path

    def run(self, desk: Desk, callback: Teller) -> str:
        from ..adapter.config import erased_concepts
        from ..diffusion.pipeline import read_adapters

        read = read_adapters(desk.pipeline(self.model, callback), self.place)
        return ", ".join(erased_concepts(next(iter(read.values()))[0].about))


@dataclass
class Interference(Job):
    """How far several adapters get in each other's way, as `semu merge` says; a chart as a data address."""

    model: Model
    places: dict[str, Path]
    folder: Path

    def run(self, desk: Desk, callback: Teller) -> str:
        from ..diffusion.merging import matrices, read_all
        from ..evaluation.adapter_charts import interference_chart

        adapters = read_all(desk.pipeline(self.model, callback), list(self.places.values()), list(self.places))
        callback.stage("comparing the adapters")
        return png(interference_chart(list(self.places), matrices(adapters), self.folder / "interference.png"))


@dataclass
class Plan(Job):
    """What an erasure would train on, as `semu prompts` says."""

    model: Model
    options: dict

    def run(self, desk: Desk, callback: Teller) -> dict:
        from ..diffusion.config import EraseConfig

        plan, config = planned(desk, self.model, EraseConfig(**self.options), callback)
        return plan_facts(plan, config, callback.told.notes)


def plan_facts(plan, config, notes: list[str]) -> dict:
    """Of each concept its kind and its pairs of prompts; the prompts that stay; what else is to be said."""
    own = lambda c: [p for p in plan.pairs if c.named_in(p.prompt)] or plan.pairs  # noqa: E731
    found = [(c.name, c.kind, own(c)) for c in plan.concepts] or [(", ".join(config.concept), "class", plan.pairs)]
    pairs = lambda own: [{"prompt": str(p.prompt), "anchor": p.anchor} for p in own]  # noqa: E731
    return {
        "concepts": [{"name": name, "kind": kind, "pairs": pairs(own)} for name, kind, own in found],
        "keep": [str(k) for k in dict.fromkeys(plan.keep)],
        "notes": [note for note in notes if not note.startswith("erasing ")],  # the pairs say that
    }


def planned(desk: Desk, model: Model, config, callback: Callback):
    """The plan and the config of an erasure from the plain model."""
    from ..diffusion.concepts import vocabulary_of
    from ..diffusion.families import family_of
    from ..diffusion.pipeline import model_path
    from ..diffusion.plan import make_plan

    pipe = desk.pipeline(model, callback)
    desk.wear()
    return make_plan(family_of(pipe, config.train), config, vocabulary_of(model_path(model.name)), [], callback)


@dataclass
class Erase(Job):
    """An erasure as `semu erase` runs it, into a folder; two prompts are drawn again and again while it trains."""

    model: Model
    options: dict
    folder: Path
    evaluate: bool = False
    resume: bool = False

    def run(self, desk: Desk, callback: Teller) -> dict:
        from ..adapter.claims import claimed
        from ..diffusion.config import EraseConfig
        from ..diffusion.erasure import run_erasure
        from ..diffusion.pipeline import remove_adapter
        from ..evaluation.finish import finish

        config = EraseConfig(**self.options)
        preview = Preview(callback, desk.pipeline(self.model, callback), config)
        desk.wear()
        callback.told.stages = []
        try:
            with claimed(self.folder):
                erasure = run_erasure(
                    desk.pipe, config, self.folder, False, self.resume, preview, keep_work=self.evaluate
                )
                preview.draw()
                report = finish(erasure, self.model.name, callback) if self.evaluate else None
            remove_adapter(desk.pipe)
        except BaseException:
            desk.clear()  # what was injected is not taken off again
            raise
        keys = ("layers", "trained", "trained_percent", "steps", "seconds", "left")
        return {**{key: erasure.facts[key] for key in keys}, "evaluation": report}


class Preview(Callback):
    """Passes on where an erasure is, and draws two prompts while it trains, in a tenth of its time at most."""

    def __init__(self, callback: Teller, pipe, config):
        self.callback, self.pipe, self.config = callback, pipe, config
        self.before, self.due, self.prompts = None, 0.0, []
        self.advance, self.note, self.warn = callback.advance, callback.note, callback.warn

    def planned(self, plan, config) -> None:
        """The plan is shown, with what was noted of it."""
        self.prompts = list(dict.fromkeys([plan.pairs[0].prompt, *plan.keep]))[:2]
        told, self.callback.told.notes = self.callback.told.notes, []
        self.callback.show(plan=plan_facts(plan, config, told))

    def stage(self, name: str, total: int = 0) -> None:
        self.callback.stage(name, total)
        if name == "training R":  # R is 0 yet
            self.draw()

    def row(self, row: dict) -> None:
        self.callback.row(row)
        if time.monotonic() >= self.due:
            self.draw()

    def draw(self) -> None:
        """Both prompts with the adapter as it is; where the memory does not suffice, that is said and left."""
        import torch

        from ..diffusion.devices import Stage, compute_device
        from ..diffusion.families import family_of
        from ..diffusion.generate import draw
        from ..diffusion.pipeline import denoiser

        begun, stage = time.monotonic(), Stage(self.pipe, family_of(self.pipe), compute_device(denoiser(self.pipe)))
        try:
            with stage.awake(*stage.idle):
                images = draw(self.pipe, self.prompts, [self.config.seed + k for k in range(len(self.prompts))],
                              self.config.sampler_steps, self.config.guidance, batch_size=1)  # fmt: skip
        except torch.OutOfMemoryError:
            self.due = float("inf")
            self.callback.note("too little memory is left for pictures while it trains")
            return
        self.before = images if self.before is None else self.before
        self.callback.show(pairs_of(self.before, images, self.prompts))
        self.due = time.monotonic() + (time.monotonic() - begun) * (1 - SHARE) / SHARE


@dataclass
class Measure(Job):
    """A suite on each of some adapters, as `semu eval` and `semu report` do it, into a folder each."""

    model: Model
    adapters: dict[str, Path]
    suite: str
    seeds: int
    folder: Path
    prompts: str | None = None

    def run(self, desk: Desk, callback: Teller) -> list[dict]:
        pipe = desk.pipeline(self.model, callback)
        return [self.one(desk, pipe, name, place, callback) for name, place in self.adapters.items()]

    def one(self, desk: Desk, pipe, name: str, place: Path, callback: Teller) -> dict:
        """One adapter's figures, chart and report."""
        from ..adapter.claims import claimed
        from ..evaluation.measure import Measured, measure_pictograms, measure_prompts
        from ..evaluation.report import write_report_page
        from ..evaluation.results import concepts_of

        (config,) = desk.wear([Worn(place)]).values()
        adapter, concepts, folder = Measured(name, place, self.model.name), concepts_of(config), self.folder / name
        callback.note(f"measuring {name}")
        shutil.rmtree(folder, ignore_errors=True)
        with claimed(folder):
            if self.suite == "pictograms":
                report = measure_pictograms(pipe, adapter, concepts, self.seeds, folder, callback)
            else:
                report = measure_prompts(pipe, adapter, self.config(concepts), folder, callback)
        chart = folder / "concepts.png"
        page = write_report_page(folder).read_text(encoding="utf-8")
        return {"name": name, "report": report, "chart": png(chart) if chart.is_file() else None, "page": page}

    def config(self, concepts: list[str]):
        """The choices of a suite over prompts, with those of the embedded model where it is that."""
        from ..diffusion.pipeline import EMBEDDED
        from ..evaluation.suites.pictograms import ITS_OWN
        from ..evaluation.suites.run import EvalConfig

        own = ITS_OWN if self.model.name == EMBEDDED else {}
        return EvalConfig(self.suite, concepts, prompts=self.prompts, seeds=self.seeds, **own)


@dataclass
class Export(Job):
    """An adapter's files in some formats, as `semu export` writes them; a whole file for single-file."""

    model: Model
    adapter: Worn
    formats: list[str]
    folder: Path

    def run(self, desk: Desk, callback: Teller) -> list[Path]:
        from ..adapter.claims import check_space, filled
        from ..diffusion.export import export
        from ..diffusion.memory import pipeline_bytes

        pipe, made = desk.pipeline(self.model, callback), []
        (name,) = desk.wear([self.adapter])
        for form in sorted(self.formats, key="single-file".__eq__):  # last, as it folds the adapter in
            callback.stage(f"writing {form}")
            output = self.folder / form
            shutil.rmtree(output, ignore_errors=True)
            if form == "single-file":
                check_space(self.folder, pipeline_bytes(pipe), "the whole model")
            try:
                with filled(output) as part:
                    export(pipe, part, form, adapter_name=name, warn=callback.warn)
            finally:
                if form == "single-file":
                    desk.clear()
            made += sorted(f for f in output.rglob("*") if f.is_file() and not f.name.startswith("."))
        return made


def png(file: Path) -> str:
    """A PNG as a data address."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
