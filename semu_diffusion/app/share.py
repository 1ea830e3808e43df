"""Share: files to download, the model card as it will be, and the way to the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

import gradio as gr

from .desk import Worn
from .pictures import render
from .tabs import DEVICE, QUICK, Part, shown
from .works import Export, png

FORMATS = {"native": "native", "LoRA for diffusers": "diffusers", "kohya, for ComfyUI and A1111": "kohya",
           "single file, the whole model": "single-file"}  # fmt: skip
HINT = "Choose an adapter; its model card is shown here before anything is sent."


def tab(setting, model) -> Part:
    """The tab."""
    own = "" if setting.served else " Empty: this machine's login."
    with gr.Tab("Share", id="share"):
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                adapter = gr.Dropdown([], label="Adapter", elem_id="share-adapter")
                formats = gr.CheckboxGroup(list(FORMATS), value=list(FORMATS)[:2], label="Files", elem_id="formats")
                scale = gr.Slider(0.05, 1.5, 1, step=0.05, label="Strength that is written", info="native: always 1")
                make = gr.Button("Make the files", elem_id="make-files")
                files = gr.File(label="Downloads", file_count="multiple", interactive=False, visible=False,
                                elem_id="files")  # fmt: skip
                repo = gr.Textbox(label="Repository on the Hub", placeholder="user/no-cigarette", max_lines=1,
                                  elem_id="repo")  # fmt: skip
                token = gr.Textbox(
                    label="Token with the right to write", info=f"Used for this once and never stored.{own}",
                    type="password", max_lines=1, elem_id="token",
                )  # fmt: skip
                with gr.Row():
                    private = gr.Checkbox(False, label="Private")
                    request_ = gr.Checkbox(False, label="Open a pull request instead")
                push = gr.Button("Push to the Hub", variant="primary", elem_id="push")
            with gr.Column(scale=3, min_width=280):
                status = gr.HTML(elem_id="share-status")
                card = gr.HTML(render("hint", text=HINT), elem_id="card-head")
                text = gr.Markdown(elem_id="card")

    def carded(request: gr.Request, name, repo):
        visit = setting.visits.of(request.session_hash)
        if not name:
            return render("hint", text=HINT), ""
        from ..messages import message_of

        try:
            return preview(visit.known(name).place, repo or "")
        except Exception as error:
            return render("problem", text=message_of(error)[0]), ""

    def written(request: gr.Request, model_name, name, formats, scale):
        visit = setting.visits.of(request.session_hash)

        def job():
            chosen = [FORMATS[label] for label in formats or ()]
            if not chosen or not name:
                raise ValueError("choose an adapter and at least one kind of file")
            if not 0 < float(scale) <= 1.5:
                raise ValueError("a strength must be in (0, 1.5]")
            if "native" in chosen and float(scale) != 1:
                raise ValueError("a native adapter is written at full strength; leave it out, or set the strength to 1")
            known, folder = visit.known(name), visit.folder / "files" / name
            opened = setting.visits.model(model_name, setting.model)
            return Export(visit.stop, opened, Worn(known.place, float(scale)), chosen, folder)

        for html, told in shown(visit, job):
            yield html, gr.update(value=[str(f) for f in told.value], visible=True) if told.done else gr.skip()

    def pushed(request: gr.Request, name, repo, token, private, pull_request):
        from ..hub.transfer import push_to_hub
        from ..messages import message_of

        try:
            place = setting.visits.of(request.session_hash).known(name or "").place
            if setting.served and not (token or "").strip():
                raise ValueError("give a token of yours with the right to write; make one at huggingface.co/settings")
            written_card(place)
            address = push_to_hub(
                place, (repo or "").strip(), bool(private), create_pr=bool(pull_request),
                token=(token or "").strip() or None,
            )  # fmt: skip
            return render("link", address=address), ""
        except Exception as error:
            return render("problem", text=message_of(error)[0]), ""

    gr.on([adapter.change, repo.blur], carded, [adapter, repo], [card, text], **QUICK)
    make.click(written, [model, adapter, formats, scale], [status, files], show_progress_on=status, **DEVICE)
    push.click(pushed, [adapter, repo, token, private, request_], [status, token], **QUICK)
    return Part(adapter)


def written_card(place: Path) -> None:
    """Writes the model card of an adapter folder that lacks one, as after an erasure that was not measured."""
    from ..adapter.claims import read_json
    from ..evaluation.suites.pictograms import ROWS
    from ..hub.card import write_card

    if place.is_dir() and not (place / "README.md").exists() and (place / "results.json").is_file():
        write_card(place, read_json(place / "results.json"), ROWS)


def preview(place: Path, repo: str) -> tuple[str, str]:
    """What a push would send: the files with their sizes, and the card's text without its head.

    Raises:
        ValueError: as `to_push`; a lone file.
    """
    from ..hub.card import PICTURES
    from ..hub.transfer import to_push

    if not place.is_dir():
        raise ValueError("this is a lone file; a folder that was erased here can be pushed, with its card")
    written_card(place)
    sent = to_push(place, repo.strip())
    sizes = {name: len(f) if isinstance(f, bytes) else os.path.getsize(f) for name, f in sent.items()}
    readme = sent.get("README.md", b"")
    text = readme.decode() if isinstance(readme, bytes) else readme.read_text(encoding="utf-8")
    shown = [render("chart", title=title, uri=png(place / name)) for name, title in PICTURES.items() if name in sent]
    text = re.sub(r"^!\[.*\n", "", text.partition("\n---\n")[2] or text, flags=re.MULTILINE)  # they are shown above
    return render("files", files=sizes) + "".join(shown), text.strip()
