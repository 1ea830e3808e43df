"""One job at a time on the device, in a thread of its own; it is told as it goes, and stops where it is asked to."""

from __future__ import annotations

import os
import queue
import threading
import time
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..callbacks import Callback, Stopped
from ..messages import message_of

if TYPE_CHECKING:
    from .desk import Desk

BEAT = 0.3  # seconds between two looks at a job; whoever waits for it can leave as often
TURN = threading.Lock()  # of the one device
LONGEST = 300  # seconds of a GPU that ZeroGPU lends for one job


@dataclass
class Stage:
    """A part of a job: how much of it is done, of which `first` before it was resumed, and since when."""

    name: str
    total: int = 0
    done: int = 0
    first: int = 0
    begun: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def left(self) -> float | None:
        """Seconds that it will take yet, at the speed so far."""
        own = self.done - self.first
        return self.seconds / own * max(0, self.total - self.done) if own and self.total else None


@dataclass
class Told:
    """What is known of a job while it runs; `pairs` are pictures of it, `plan` what is trained on."""

    stages: list[Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loss: str = ""
    pairs: list[dict] = field(default_factory=list)
    plan: dict | None = None
    over = done = False


@dataclass
class End:
    """How a job ended: "done" with a value, "stopped", or "failed" with a message."""

    how: str
    told: Told
    value: object = None
    over = True

    @property
    def done(self) -> bool:
        return self.how == "done"


@dataclass
class Job:
    """Something that the device does; all it holds can be sent to another process.

    Args:
        stop: a file whose presence asks the job to end.
    """

    stop: Path

    def run(self, desk: Desk, callback: Teller) -> object:
        raise NotImplementedError


class Teller(Callback):
    """Tells where a job is; raises `Stopped` in it once the file `stop` is there."""

    def __init__(self, stop: Path, tell):
        self.stop, self.tell, self.told = stop, tell, Told()

    def said(self) -> None:
        """What has changed is told, and a job that shall stop does so here."""
        for stage in self.told.stages[-1:]:
            stage.seconds = time.monotonic() - stage.begun
        self.tell(replace(self.told, stages=deepcopy(self.told.stages), notes=list(self.told.notes)))
        if self.stop.exists():
            raise Stopped

    def stage(self, name: str, total: int = 0) -> None:
        self.told.stages.append(Stage(name, total))
        self.said()

    def advance(self, count: int = 1) -> None:
        self.told.stages[-1].done += count
        self.said()

    def note(self, text: str) -> None:
        self.told.notes.append(text)
        self.said()

    warn = note

    def row(self, row: dict) -> None:
        self.told.loss = f"loss {row['loss']:.4f}" + (f", {row['left']:.0%} left" if "left" in row else "")
        stage, step = self.told.stages[-1], row["step"]
        stage.first, stage.done = stage.first if stage.done else step - 1, step
        self.said()

    def show(self, pairs: list[dict] | None = None, plan: dict | None = None) -> None:
        """Pictures of the job under way, or its plan."""
        self.told.pairs, self.told.plan = pairs or self.told.pairs, plan or self.told.plan
        self.said()


def follow(job: Job) -> Iterator[Told | End]:
    """Runs a job once the device is free; tells where it is, and last how it ended.

    Closing the iterator stops the job; the device is free again when it has.
    """
    while not TURN.acquire(timeout=BEAT):
        yield Told([Stage("waiting for the device")])
        if job.stop.exists():
            yield End("stopped", Told())
            return
    try:
        yield from on_device(job)
    finally:
        TURN.release()


def on_device(job: Job) -> Iterator[Told | End]:
    """Runs a job in a thread; see `follow`."""
    from .desk import DESK

    told: queue.Queue[Told | End] = queue.Queue()
    thread = threading.Thread(target=work, args=(job, DESK, told.put), name="semu job", daemon=True)
    thread.start()
    latest: Told | End = Told()
    try:
        while not isinstance(latest, End):
            try:
                latest = told.get(timeout=BEAT)
                while not isinstance(latest, End) and not told.empty():
                    latest = told.get()
            except queue.Empty:
                for stage in latest.stages[-1:]:
                    stage.seconds = time.monotonic() - stage.begun
            if job.stop.exists():
                DESK.interrupt()
            yield latest
    finally:
        if thread.is_alive() and not isinstance(latest, End):
            job.stop.touch()
        while thread.is_alive():
            if job.stop.exists():
                DESK.interrupt()
            thread.join(BEAT)


def work(job: Job, desk: Desk, tell) -> None:
    """The thread: runs the job, and tells how it ended. What the package warns of becomes a note."""
    teller = Teller(job.stop, tell)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            value = job.run(desk, teller)
        package = str(Path(__file__).parents[1])
        teller.told.notes += [str(w.message) for w in caught if w.filename.startswith(package)]
        tell(End("done", teller.told, value))
    except Stopped:
        tell(End("stopped", teller.told))
    except BaseException as error:
        tell(End("failed", teller.told, message_of(error)[0]))


def lent(generator):
    """A generator that gets a GPU for each run where the Space has ZeroGPU; else it itself."""
    if not os.environ.get("SPACES_ZERO_GPU"):
        return generator
    import spaces

    return spaces.GPU(duration=LONGEST)(generator)


on_device = lent(on_device)
