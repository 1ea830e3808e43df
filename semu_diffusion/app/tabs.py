"""What the tabs share: their parts, how a job is shown while it runs, and what goes from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gradio as gr

from ..messages import message_of
from .jobs import End, Job, Told, follow
from .pictures import render
from .sessions import Visit

# Of events that use the device: one at a time, whoever waits sees how many are before, and none of them is in an API.
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1, "show_progress": "minimal", "api_visibility": "private"}
QUICK = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Part:
    """A tab: its chooser of adapters, the events after which there may be another adapter, and the way from there to
    Look: a button, and what gives the names of the adapters that are then looked at."""

    adapters: object = None
    changes: list = field(default_factory=list)
    look: object = None
    looked_at: Callable | None = None


def shown(visit: Visit, make: Callable[[], Job]) -> Iterator[tuple[str, Told | End]]:
    """Makes and follows a job: HTML of where it is, and what is told; last, how it ended.

    Whatever is wrong, also with what was typed, is the message that the shell gives.
    """
    try:
        visit.stop.unlink(missing_ok=True)
        job = make()
    except Exception as error:
        text = message_of(error)[0]
        yield render("problem", text=text), End("failed", Told(), text)
        return
    for told in follow(job):
        if not told.over:
            yield render("progress", told=told, ended=False), told
        elif told.how == "failed":
            yield render("problem", text=told.value), told
        else:
            notes = Told(notes=told.told.notes) if told.done else told.told
            yield render("progress", told=notes, ended=True), told


def number(text: str | None, what: str, kind: type) -> int | float | None:
    """The number in a field, None where it is empty. ValueError for anything else."""
    try:
        return kind(text) if str(text or "").strip() else None
    except ValueError:
        raise ValueError(f"{what} must be a {'whole ' if kind is int else ''}number, got {text!r}") from None


def wire(setting, page, tabs, parts: list[Part]) -> None:
    """What goes from tab to tab: the adapters that a visitor has; and the end of a visit."""
    choosers = [part.adapters for part in parts if part.adapters is not None]

    def refresh(request: gr.Request):
        names = list(setting.visits.of(request.session_hash).adapters)
        return [gr.update(choices=names) for _ in choosers]

    def leave(request: gr.Request) -> None:
        setting.visits.close(request.session_hash)

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    page.load(refresh, None, choosers, **quick)
    for part in parts:
        for event in part.changes:
            event.then(refresh, None, choosers, **quick)
        if part.look is not None:
            opened = part.look.click(lambda: gr.update(selected="look"), None, tabs, **quick)
            opened.then(part.looked_at, None, parts[0].adapters, **quick)
    page.unload(leave)
