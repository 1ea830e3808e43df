"""Erase: the plan before anything runs, the run with a picture that changes, stop and resume."""

from __future__ import annotations

import gradio as gr

from .pictures import render
from .sessions import begun_options
from .tabs import DEVICE, QUICK, Part, number, shown
from .works import Erase, Plan

KINDS = ("object", "style", "person", "character", "explicit")  # as `diffusion.concepts` has them
AUTOMATIC, NOTHING = "chosen by the model", "nothing"
ANCHORS = (AUTOMATIC, NOTHING, "nearest", "random")
HINT = "Name what to forget; what would be trained on is shown before anything runs."


def tab(setting, model) -> Part:
    """The tab."""
    with gr.Tab("Erase", id="erase"):
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                concept = gr.Textbox(
                    label="What to forget", info="a thing, a style, a person; several by commas", max_lines=1,
                    placeholder="cigarette", elem_id="concept",
                )  # fmt: skip
                with gr.Row():
                    kind = gr.Dropdown([("by its name", ""), *KINDS], value="", label="Kind", min_width=200)
                    anchor = gr.Dropdown(
                        list(ANCHORS), value=AUTOMATIC, allow_custom_value=True, label="Drawn instead", min_width=200
                    )
                with gr.Row():
                    plan = gr.Button("Show the plan", elem_id="plan")
                    erase = gr.Button("Erase", variant="primary", elem_id="erase-run")
                with gr.Row():
                    stop = gr.Button("Stop", elem_id="stop", interactive=False)
                    resume = gr.Button("Resume", elem_id="resume")
                evaluate = gr.Checkbox(False, label="Measure afterwards, for the model card (as semu erase does)")
                with gr.Accordion("Training", open=False):
                    steps = blank("Most steps", "by the number of concepts", "steps")
                    latents = blank("Latents of the concept", "by their number", "latents")
                    kept = blank("Latents of other things", "by the number of concepts", "keep-latents")
                    memory = blank("Most memory, GB", "what there is", "memory")
                    adversarial = gr.Slider(0, 8, 0, step=1, label="Adversarial rounds")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Column(scale=3, min_width=280):
                planned = gr.HTML(render("hint", text=HINT), elem_id="planned")
                status = gr.HTML(elem_id="erase-status")
                pictures = gr.HTML(elem_id="erase-pictures")
                done = gr.HTML(elem_id="erased")
                look = gr.Button("Look at it", visible=False, elem_id="open")

    def options(concept, kind, anchor, steps, latents, kept, memory, adversarial, seed) -> dict:
        """Of `EraseConfig`; what is empty has its default."""
        instead = {AUTOMATIC: None, NOTHING: ""}.get(anchor, anchor)
        found = {"concept": setting.visits.words(concept), "kind": kind or None, "anchor": instead,
                 "steps": number(steps, "most steps", int), "latents": number(latents, "latents", int),
                 "keep_latents": number(kept, "latents of other things", int),
                 "max_memory": number(memory, "most memory", float), "adversarial": int(adversarial),
                 "seed": int(seed or 0)}  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def show_plan(request: gr.Request, model_name, *typed):
        visit = setting.visits.of(request.session_hash)
        job = lambda: Plan(visit.stop, setting.visits.model(model_name, setting.model), options(*typed))  # noqa: E731
        for html, told in shown(visit, job):
            yield (render("plan", plan=told.value), "") if told.done else (gr.skip(), html)

    def begin(request: gr.Request, model_name, evaluate, *typed):
        visit = setting.visits.of(request.session_hash)

        def job():
            given = options(*typed)
            folder = visit.new_folder("no-" + "-".join(given["concept"]))
            return Erase(visit.stop, setting.visits.model(model_name, setting.model), given, folder, bool(evaluate))

        yield from run(visit, job)

    def go_on(request: gr.Request, evaluate):
        visit = setting.visits.of(request.session_hash)

        def job():
            folder = visit.begun()
            if folder is None:
                raise ValueError("no run was stopped here; Erase begins one")
            name, given = begun_options(folder)
            return Erase(
                visit.stop, setting.visits.model(name, setting.model), given, folder, bool(evaluate), resume=True
            )

        yield from run(visit, job)

    def run(visit, make):
        made, seen, known = [], None, None
        for html, told in shown(visit, lambda: made.append(make()) or made[0]):
            now = told.told if told.over else told
            pictures = gr.skip() if now.pairs is seen else render("pairs", pairs=now.pairs) if now.pairs else ""
            trained_on = gr.skip() if now.plan is known else render("plan", plan=now.plan)
            seen, known = now.pairs, now.plan
            came = outcome(visit, made, told) if told.over else ""
            yield trained_on, html, pictures, came, gr.update(interactive=not told.over), gr.update(visible=told.done)

    def made_last(request: gr.Request) -> list[str]:
        return list(setting.visits.of(request.session_hash).adapters)[-1:]

    def halt(request: gr.Request) -> None:
        setting.visits.of(request.session_hash).stop.touch()

    typed = [concept, kind, anchor, steps, latents, kept, memory, adversarial, seed]
    shows = [planned, status, pictures, done, stop, look]
    gr.on(
        [plan.click, concept.submit], show_plan, [model, *typed], [planned, status], show_progress_on=status, **DEVICE
    )
    changes = [
        erase.click(begin, [model, evaluate, *typed], shows, show_progress_on=status, **DEVICE),
        resume.click(go_on, [evaluate], shows, show_progress_on=status, **DEVICE),
    ]
    stop.click(halt, None, None, queue=False, **QUICK)
    return Part(None, changes, look, made_last)


def blank(label: str, default: str, name: str):
    """A field that is empty where the default is meant."""
    return gr.Textbox(label=label, placeholder=default, max_lines=1, elem_id=name)


def outcome(visit, made: list[Erase], end) -> str:
    """What came of a run, and what can be done next."""
    if not made:
        return ""
    folder = made[0].folder
    if end.done:
        facts = end.value
        name = visit.add(folder, ", ".join(made[0].options["concept"]), folder.name)
        trained = f"{facts['trained']:,} trained numbers ({facts['trained_percent']:.2f} %)"
        text = f"{name}: {facts['layers']} layers, {trained}, {facts['steps']} steps, {facts['seconds']:.0f} s."
        return render("hint", text=text)
    from ..adapter.claims import WORK

    if (folder / WORK).is_dir():
        return render("hint", text="What was done is kept; Resume goes on from there.")
    return ""
