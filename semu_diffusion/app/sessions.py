"""What a visitor has: a folder, adapters by name, and the file that stops a job. Nobody sees another's."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .desk import Model

MOST = 4  # adapters that are looked at, or measured, together
LONG = 300  # characters of a text that is typed


@dataclass
class Known:
    """An adapter that a visitor may use: its place on this machine, and what it erases."""

    place: Path
    erases: str = ""


@dataclass
class Visit:
    """One visitor's files and adapters.

    Args:
        folder: of this visit alone, gone after it.
        keep: where erased adapters go.
    """

    folder: Path
    keep: Path
    adapters: dict[str, Known] = field(default_factory=dict)

    @property
    def stop(self) -> Path:
        """Asks the visitor's job to end."""
        return self.folder / ".stop"

    def known(self, name: str) -> Known:
        """ValueError where this visitor has no such adapter."""
        if name not in self.adapters:
            raise ValueError(f"no adapter {name!r} here; add it first")
        return self.adapters[name]

    def chosen(self, names: Sequence[str] | None) -> dict[str, Known]:
        """Some adapters by name. ValueError for too many."""
        if len(names or ()) > MOST:
            raise ValueError(f"choose at most {MOST} adapters")
        return {name: self.known(name) for name in names or ()}

    def add(self, place: Path, erases: str = "", name: str = "") -> str:
        """Makes an adapter known and returns its name; one that is there already keeps its."""
        for given, known in self.adapters.items():
            if known.place == place:
                return given
        name = free(plain(name or place.stem), self.adapters)
        self.adapters[name] = Known(place, erases)
        return name

    def new_folder(self, name: str) -> Path:
        """A folder for an adapter that is not there yet."""
        self.keep.mkdir(parents=True, exist_ok=True)
        return self.keep / free(plain(name), [p.name for p in self.keep.iterdir()])

    def begun(self) -> Path | None:
        """The folder of the erasure that was stopped last."""
        from ..adapter.claims import BEGUN

        found = [file for file in self.keep.glob(f"*/{BEGUN}") if file.is_file()]
        return max(found, key=lambda file: file.stat().st_mtime).parents[1] if found else None


class Visits:
    """All visitors by their session; each ends when its page is closed, or the server.

    Args:
        served: others are served: names of models and adapters are ids, and nothing is kept.
        keep: where adapters are kept that this machine's user erases.
        first: adapters that everybody finds, by name.
    """

    def __init__(self, served: bool, keep: Path, first: dict[str, Known] | None = None):
        self.served, self.keep, self.first = served, keep, first or {}
        self.open: dict[str, Visit] = {}
        self.lock, self.came = threading.Lock(), threading.Event()  # the latter: somebody has opened the page
        self.root = Path(tempfile.mkdtemp(prefix="semu-"))
        self.end = weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)

    def of(self, session: str) -> Visit:
        """The visit of a session, made on its first call."""
        self.came.set()
        with self.lock:
            if session not in self.open:
                folder = Path(tempfile.mkdtemp(dir=self.root))
                visit = Visit(folder, folder / "adapters" if self.served else self.keep, dict(self.first))
                if not self.served:
                    for place in sorted(self.keep.glob("*/adapter_config.json")):
                        visit.add(place.parent)
                self.open[session] = visit
            return self.open[session]

    def close(self, session: str) -> None:
        """Stops the visitor's job, then takes the visit's folder away."""
        with self.lock:
            visit = self.open.pop(session, None)
        if visit is None:
            return
        visit.stop.touch()
        threading.Thread(target=self.remove, args=(visit,), daemon=True).start()

    def remove(self, visit: Visit) -> None:
        """Once no job is at it any more."""
        from .jobs import TURN

        with TURN:
            shutil.rmtree(visit.folder, ignore_errors=True)

    def place(self, text: str) -> Path:
        """The local place of an adapter that was typed: a folder or file where this machine's user asks, else an id.

        Raises:
            ValueError: as `pull`; a path where others are served.
        """
        from ..hub.transfer import is_repo, local

        text = typed(text, "an adapter")
        if self.served and not is_repo(text):
            raise ValueError(f"{text!r} is no id on the Hub; expected user/name")
        place = local(text)
        if not place.exists():
            raise ValueError(f"no adapter at {text}: expected a folder, a .safetensors file, or user/name on the Hub")
        return place

    def model(self, text: str, model: Model) -> Model:
        """The model that was typed, loaded as the page was told. ValueError for a path where others are served."""
        from ..diffusion.pipeline import SHIPPED
        from ..hub.transfer import is_repo

        text = typed(text, "a model")
        if self.served and text not in (*SHIPPED, model.name) and not is_repo(text):
            raise ValueError(f"{text!r} is no id on the Hub; expected user/name, or {' or '.join(SHIPPED)}")
        loading = model.loading
        if self.served and text != model.name:  # a visitor's model is not read with the host's right to read
            loading = replace(loading, token=None)
        return Model(text, model.device, loading)

    def words(self, text: str) -> list[str]:
        """What was typed to be forgotten, by commas. ValueError for a file's name where others are served."""
        from ..diffusion.concepts import is_file

        found = [word.strip() for word in typed(text, "what to forget").split(",") if word.strip()]
        if self.served and any(is_file(word) for word in found):
            raise ValueError("files of prompts are not read here; name what to forget")
        return found


def typed(text: str | None, what: str) -> str:
    """A text that was typed. ValueError for none, or a long one."""
    text = " ".join(str(text or "").split())
    if not text or len(text) > LONG:
        raise ValueError(f"name {what}" if not text else f"{what}: at most {LONG} characters")
    return text


def plain(name: str) -> str:
    """A name that is a plain file name."""
    return re.sub(r"[^\w-]+", "-", name).strip("-_")[:60] or "adapter"


def free(name: str, taken) -> str:
    """The name, with a number where it is taken."""
    number = next(k for k in range(1, len(taken) + 2) if (name if k == 1 else f"{name}-{k}") not in taken)
    return name if number == 1 else f"{name}-{number}"


def begun_options(folder: Path) -> tuple[str, dict]:
    """The model and the options with which an erasure was begun."""
    from ..adapter.claims import BEGUN, read_json

    found = read_json(folder / BEGUN)
    return found.pop("model"), found
