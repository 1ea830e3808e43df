"""Measure: a suite on up to four adapters, their figures side by side, charts and reports."""

from __future__ import annotations

import gradio as gr

from .pictures import render
from .sessions import MOST, typed
from .tabs import DEVICE, Part, shown
from .works import Measure

SUITES = ("pictograms", "wordings", "classes", "nudity", "imagenette", "style", "custom")
ALONE = ("pictograms", "wordings", "classes", "imagenette")  # those that bring their own prompts
HINT = "Base and erased model draw the same prompts from the same noise, and judges name what is on the pictures."
MOST_SEEDS = 10


def tab(setting, model) -> Part:
    """The tab."""
    suites = ALONE if setting.served else SUITES
    with gr.Tab("Measure", id="measure"):
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                adapters = gr.Dropdown(
                    [], value=[], multiselect=True, max_choices=MOST, label="Adapters, up to four",
                    elem_id="measure-adapters",
                )  # fmt: skip
                suite = gr.Dropdown(list(suites), value=suites[0], label="Suite", elem_id="suite")
                seeds = gr.Slider(1, MOST_SEEDS, 2, step=1, label="Pictures per prompt", elem_id="seeds")
                prompts = gr.Textbox(
                    label="Prompts", info="a csv or text file, or a datasets name[:split]", max_lines=1,
                    visible=not setting.served,
                )  # fmt: skip
                with gr.Row():
                    measure = gr.Button("Measure", variant="primary", elem_id="measure-run")
                    stop = gr.Button("Stop")
            with gr.Column(scale=3, min_width=280):
                status = gr.HTML(render("hint", text=HINT), elem_id="measure-status")
                table = gr.HTML(elem_id="figures")
                charts = gr.HTML(elem_id="charts")

    def measured(request: gr.Request, model_name, names, suite, seeds, prompts):
        visit = setting.visits.of(request.session_hash)

        def job():
            chosen = visit.chosen(names)
            if not chosen:
                raise ValueError("choose an adapter to measure")
            if suite not in suites or not 1 <= int(seeds) <= MOST_SEEDS:
                raise ValueError(f"choose one of the suites {', '.join(suites)} and at most {MOST_SEEDS} pictures")
            given = typed(prompts, "prompts") if prompts and not setting.served else None
            places = {name: known.place for name, known in chosen.items()}
            opened = setting.visits.model(model_name, setting.model)
            return Measure(visit.stop, opened, places, suite, int(seeds), visit.folder / "measured", given)

        for html, told in shown(visit, job):
            yield html, *((compared(told.value, suite), charted(told.value)) if told.done else (gr.skip(), gr.skip()))

    def halt(request: gr.Request) -> None:
        setting.visits.of(request.session_hash).stop.touch()

    measure.click(
        measured, [model, adapters, suite, seeds, prompts], [status, table, charts], show_progress_on=status, **DEVICE
    )
    stop.click(halt, None, None, queue=False, show_progress="hidden", api_visibility="private")
    return Part(adapters)


def compared(found: list[dict], suite: str) -> str:
    """The base model's figures, and beside them those of each adapter with their intervals."""
    from ..evaluation.suites import rows_of
    from ..hub.card import figure

    sides = [found[0]["report"]["base"], *(one["report"]["erased"] for one in found)]
    rows = []
    for key, meaning in rows_of(suite):
        values = [side.get(key) for side in sides]
        if any(value is not None for value in values):
            cells = [figure(value) + interval(side, key) for value, side in zip(values, sides)]
            rows.append({"key": key, "meaning": meaning, "values": cells})
    return render("table", columns=["base", *(one["name"] for one in found)], rows=rows)


def interval(side: dict, key: str) -> str:
    """Of a share, in percent."""
    ends = (side.get("intervals") or {}).get(key)
    return f" ({ends[0]:.0f}–{ends[1]:.0f})" if ends and ends[1] > 1 else ""


def charted(found: list[dict]) -> str:
    """The charts and the reports."""
    charts = [render("chart", title=one["name"], uri=one["chart"]) for one in found if one["chart"]]
    return "".join([*charts, *(render("report", title=one["name"], page=one["page"]) for one in found)])
