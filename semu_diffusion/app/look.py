"""Look: pictures before and after, each adapter at its strength."""

from __future__ import annotations

import shutil
from pathlib import Path

import gradio as gr

from .desk import Request, Worn
from .pictures import covers, render
from .sessions import MOST, plain
from .tabs import DEVICE, QUICK, Part, number, shown
from .works import Check, Draw, Interference

PROMPT = "a picture of a cigarette in neon style"
HINT = "Draw, then slide over a picture: before on the left, after on the right."
MOST_PICTURES, MOST_STEPS = 8, 150


def tab(setting, model) -> Part:
    """The tab."""
    with gr.Tab("Look", id="look"):
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                prompt = gr.Textbox(PROMPT, label="Prompt", lines=2, max_lines=4)
                adapters = gr.Dropdown(
                    [], value=[], multiselect=True, max_choices=MOST, label="Adapters", elem_id="look-adapters"
                )
                dials = [
                    gr.Slider(0, 1.5, 1, step=0.05, label="Strength", visible=False, elem_id=f"dial-{k}")
                    for k in range(MOST)
                ]
                with gr.Row():
                    seed = gr.Number(0, label="First seed", precision=0, minimum=0, min_width=90)
                    count = gr.Slider(1, MOST_PICTURES, 2, step=1, label="Pictures", min_width=140)
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
                with gr.Accordion("Add an adapter", open=False):
                    where = "user/name on the Hub" if setting.served else "Folder, file, or user/name on the Hub"
                    text = gr.Textbox(label=where, max_lines=1, elem_id="add-text")
                    with gr.Row():
                        add = gr.Button("Add", size="sm", elem_id="add")
                        upload = gr.UploadButton(
                            "Upload .safetensors", file_types=[".safetensors"], size="sm", elem_id="upload"
                        )
                with gr.Accordion("Sampler", open=False):
                    steps = gr.Textbox(label="Steps", placeholder="the default", max_lines=1)
                    guidance = gr.Textbox(label="Guidance", placeholder="the default", max_lines=1)
            with gr.Column(scale=3, min_width=280):
                pictures = gr.HTML(render("hint", text=HINT), elem_id="look-pictures")
                status = gr.HTML(elem_id="look-status")
                if covers():
                    gr.HTML(render("hint", text=covers()))
                with gr.Accordion("Interference", open=False, visible=False) as several:
                    compare = gr.Button("Compare the adapters", size="sm")
                    chart = gr.HTML()

    def drawn(request: gr.Request, model_name, prompt, names, seed, count, steps, guidance, *weights):
        visit = setting.visits.of(request.session_hash)

        def job():
            chosen = visit.chosen(names)
            worn = [Worn(known.place, weight) for known, weight in zip(chosen.values(), checked(weights))]
            asked = request_of(prompt, seed, count, steps, guidance)
            return Draw(visit.stop, setting.visits.model(model_name, setting.model), asked, worn)

        for html, told in shown(visit, job):
            yield render("pairs", pairs=told.value) if told.done else gr.skip(), html

    def added(request: gr.Request, model_name, text, names):
        visit = setting.visits.of(request.session_hash)
        yield from taken(model_name, lambda: setting.visits.place(text), text, names, visit)

    def uploaded(request: gr.Request, model_name, file, names):
        visit = setting.visits.of(request.session_hash)
        yield from taken(model_name, lambda: received(visit.folder, file), Path(str(file)).stem, names, visit)

    def taken(model_name, find, name, names, visit):
        found = {}

        def job():
            found["place"] = find()
            return Check(visit.stop, setting.visits.model(model_name, setting.model), found["place"])

        for html, told in shown(visit, job):
            if not told.done:
                yield gr.skip(), html
                continue
            added = visit.add(found["place"], told.value, str(name).rstrip("/").rpartition("/")[2])
            chosen = [*(names or []), added][-MOST:]
            erases = f"{added} erases {told.value}." if told.value else f"{added} is there."
            yield (
                gr.update(choices=list(visit.adapters), value=list(dict.fromkeys(chosen))),
                render("hint", text=erases),
            )

    def dialled(names):
        shown = [*(names or [])][:MOST]
        rows = [gr.update(visible=k < len(shown), label=f"Strength of {shown[k]}" if k < len(shown) else "Strength")
                for k in range(MOST)]  # fmt: skip
        return [*rows, gr.update(visible=len(shown) > 1)]

    def compared(request: gr.Request, model_name, names):
        visit = setting.visits.of(request.session_hash)

        def job():
            places = {name: known.place for name, known in visit.chosen(names).items()}
            return Interference(visit.stop, setting.visits.model(model_name, setting.model), places, visit.folder)

        for html, told in shown(visit, job):
            yield render("chart", title="Interference", uri=told.value) if told.done else html

    inputs = [model, prompt, adapters, seed, count, steps, guidance, *dials]
    gr.on([draw.click, prompt.submit], drawn, inputs, [pictures, status], show_progress_on=status, **DEVICE)
    for dial in dials:
        dial.input(drawn, inputs, [pictures, status], trigger_mode="always_last", show_progress_on=status, **DEVICE)
    adapters.change(dialled, adapters, [*dials, several], **QUICK)
    more = [
        gr.on(
            [add.click, text.submit],
            added,
            [model, text, adapters],
            [adapters, status],
            show_progress_on=status,
            **DEVICE,
        ),
        upload.upload(uploaded, [model, upload, adapters], [adapters, status], show_progress_on=status, **DEVICE),
    ]
    compare.click(compared, [model, adapters], chart, show_progress_on=chart, **DEVICE)
    return Part(adapters, more)


def checked(weights) -> list[float]:
    """Strengths as the dials give them. ValueError for others."""
    found = [float(weight) for weight in weights]
    if not all(0 <= weight <= 1.5 for weight in found):
        raise ValueError("a strength must be in [0, 1.5]")
    return found


def request_of(prompt, seed, count, steps, guidance) -> Request:
    """What is to be drawn. ValueError for more than the page draws at once."""
    count, steps, guidance = int(count or 1), number(steps, "steps", int), number(guidance, "guidance", float)
    if not 1 <= count <= MOST_PICTURES or not (steps is None or 1 <= steps <= MOST_STEPS):
        raise ValueError(f"at most {MOST_PICTURES} pictures of {MOST_STEPS} steps are drawn at once")
    if len(prompt or "") > 1000:
        raise ValueError("the prompt is longer than 1000 characters")
    return Request(" ".join(str(prompt or "").split()), int(seed or 0), count, steps, guidance)


def received(folder: Path, file: str) -> Path:
    """An uploaded file in the visitor's folder. ValueError unless it is a .safetensors file."""
    source = Path(file)
    if source.suffix.lower() != ".safetensors":
        raise ValueError("only .safetensors files are taken")
    (folder / "uploads").mkdir(exist_ok=True)
    target = folder / "uploads" / f"{plain(source.stem)}.safetensors"
    target.unlink(missing_ok=True)
    return Path(shutil.move(source, target))
