"""The page: its head, its four tabs, and how it is served."""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from ..lazy import uncollected
from .desk import Model
from .sessions import Visits

QUEUE = 16  # jobs that wait; further ones are turned away
UPLOAD = "2gb"
SOON = 1  # seconds until the model is loaded though no page is open yet
LOCAL = ("127.0.0.1", "localhost", "::1")
HERE = Path(__file__).parent


@dataclass
class Setting:
    """What all tabs know: the model that is offered, and the visitors."""

    model: Model
    visits: Visits

    @property
    def served(self) -> bool:
        return self.visits.served


def library():
    """Gradio, which tells nobody that it is used. ValueError where it is not installed."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        with uncollected():
            import gradio
    except ImportError as error:
        raise ValueError(f"the page needs Gradio ({error}): pip install 'semu-diffusion[app]'") from None
    return gradio


def build_page(setting: Setting):
    """The page as Gradio Blocks, to be launched with `looks()`."""
    gr = library()
    from . import erase, look, measure, share
    from .tabs import wire

    with gr.Blocks(title="semu", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        with gr.Row(elem_id="head", equal_height=False):
            gr.HTML('<h1>semu</h1><p class="quiet">Erase concepts from diffusion models and ship a small file.</p>')
            model = gr.Textbox(
                setting.model.name,
                label="Model",
                info="pictograms, or user/name on the Hub" if setting.served else "pictograms, a folder, or user/name",
                max_lines=1,
                elem_id="model",
            )
        with gr.Tabs(elem_id="tabs") as tabs:
            parts = [tab(setting, model) for tab in (look.tab, erase.tab, measure.tab, share.tab)]
        wire(setting, page, tabs, parts)
    return page.queue(max_size=QUEUE, default_concurrency_limit=8, api_open=False)


def looks() -> dict:
    """Theme, style and script, as `launch` takes them: no font or script from elsewhere."""
    gr = library()
    blue = gr.themes.Color("#eef5fa", "#d9e8f3", "#b5d2e7", "#86b6d8", "#549ac8", "#2f6f9f", "#2a6590", "#235477",
                           "#1c435f", "#153247", "#0e2230")  # fmt: skip
    sans, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    theme = gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue="stone",
        font=sans,
        font_mono=mono,
        radius_size="sm",
        text_size="md",
    ).set(
        body_background_fill="#fbfbfa",
        body_background_fill_dark="#16181b",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1f2226",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        input_background_fill="#ffffff",
        input_background_fill_dark="#16181b",
        input_border_width="1px",
        button_primary_background_fill="#2f6f9f",
        button_primary_background_fill_hover="#235477",
        button_primary_background_fill_dark="#2f6f9f",
        button_primary_background_fill_hover_dark="#549ac8",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#eceae7",
        button_secondary_background_fill_hover="#e0ddd8",
        button_secondary_background_fill_dark="#30353b",
        button_secondary_background_fill_hover_dark="#3b4148",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_selected="transparent",
        checkbox_label_background_fill_selected_dark="transparent",
        body_text_color="#222222",
        body_text_color_dark="#ececec",
        body_text_color_subdued="#626262",
        body_text_color_subdued_dark="#a3a7ad",
        block_info_text_color="#626262",
        block_info_text_color_dark="#a3a7ad",
        border_color_primary="#e2e2df",
        border_color_primary_dark="#343940",
    )
    pairs = HERE.parent / "evaluation"
    css = (pairs / "pairs.css").read_text() + (HERE / "style.css").read_text()
    return {"theme": theme, "css": css, "head": f"<script>{(pairs / 'pairs.js').read_text()}</script>"}


def launch(
    model: Model,
    adapters: dict[str, Path] | None = None,
    keep: Path = Path("adapters"),
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    block: bool = True,
):
    """Serves the page; with `block` until Ctrl-C.

    Others are served with `share`, on a host that is not this machine's own name, and in a Space: then models and
    adapters are ids, uploads are `.safetensors` files, and nothing that a visitor makes is kept.

    Returns:
        The page and its address.

    Raises:
        ValueError: Gradio is not installed, a port in use, no public address.
    """
    from .sessions import Known

    served = share or host not in LOCAL or bool(os.environ.get("SPACE_ID"))
    if served:
        model = without_login(model)
    first = {name: Known(place) for name, place in (adapters or {}).items()}
    setting = Setting(model, Visits(served, keep, first))
    page = build_page(setting)
    try:
        _, address, shared = page.launch(
            server_name=host, server_port=port, share=share, quiet=True, prevent_thread_lock=True, footer_links=[],
            run_history=False, ssr_mode=False, enable_monitoring=False, max_file_size=UPLOAD, max_threads=40,
            state_session_capacity=1000, show_error=True, **looks(),
        )  # fmt: skip
    except OSError as error:
        said = f"port {port} is in use" if "empty port" in str(error) else str(error)
        raise ValueError(f"{said}; give another --port") from None
    if share and not shared:
        page.close(verbose=False)
        raise ValueError("Gradio's tunnel gives no public address; leave out --share, or use --host and a way of yours")
    threading.Thread(target=warm, args=(setting,), name="semu warm", daemon=True).start()
    if block:
        print(shared or address, flush=True)
        page.block_thread()
    return page, shared or address


def without_login(model: Model) -> Model:
    """The model with this machine's right to read it; nothing else is asked of the Hub with that from now on."""
    from huggingface_hub import constants, get_token

    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True
    return replace(model, loading=replace(model.loading, token=model.loading.token or get_token()))


def warm(setting: Setting) -> None:
    """Loads the model, and all that draws, before the first visitor asks; what is wrong is said to the one who does.

    It begins when the page is open, or soon: before, it would take from the page the time to appear in.
    """
    from .desk import Request
    from .jobs import follow
    from .works import Draw

    setting.visits.came.wait(SOON)
    with tempfile.TemporaryDirectory() as folder, uncollected():
        for _ in follow(Draw(Path(folder) / "stop", setting.model, Request("a picture", steps=1))):
            pass
