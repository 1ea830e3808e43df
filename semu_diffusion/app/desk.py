"""What the device holds: one pipeline, the adapters on it, and some pictures of the model without them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..callbacks import Callback
from ..diffusion.loading_choices import Loading
from ..messages import quieten

if TYPE_CHECKING:
    import torch

    from ..adapter import SemuConfig

MOST = 2**26  # bytes of pictures that are kept


@dataclass
class Model:
    """Which model, and how it is loaded."""

    name: str = "pictograms"
    device: str | None = None
    loading: Loading = field(default_factory=Loading)


@dataclass(frozen=True)
class Worn:
    """An adapter at a strength."""

    place: Path
    weight: float = 1.0

    @property
    def key(self) -> str:
        """A name on the pipeline that changes with the files; PEFT allows no dots."""
        files = sorted(self.place.rglob("adapter_*")) if self.place.is_dir() else [self.place]
        state = [(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
        return f"x{hashlib.sha256(repr((str(self.place), state)).encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Request:
    """Pictures: how many of a prompt from which seed on; steps and guidance are by default those of `draw`."""

    prompt: str
    seed: int = 0
    count: int = 1
    steps: int | None = None
    guidance: float | None = None

    @property
    def choices(self) -> dict:
        """What `draw` is told beside prompts and seeds."""
        given = {"steps": self.steps, "guidance": self.guidance}
        return {name: value for name, value in given.items() if value is not None}


class Desk:
    """Holds one pipeline at a time; only one job may use it at a time."""

    def __init__(self):
        self.model: Model | None = None
        self.pipe = None
        self.worn: dict[str, SemuConfig] = {}
        self.drawn: OrderedDict[tuple, torch.Tensor] = OrderedDict()

    def clear(self) -> None:
        """Lets go of the pipeline, as after a job that left it in disorder."""
        import gc

        import torch

        self.model, self.pipe, self.worn = None, None, {}
        self.drawn.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def pipeline(self, model: Model, callback: Callback):
        """The pipeline of a model; another one that was there goes first."""
        from ..diffusion.loading import load_pipeline

        if self.pipe is None or self.model != model:
            self.clear()
            callback.stage("loading the model")
            quieten()
            pipe = load_pipeline(model.name, model.device, loading=model.loading)
            pipe.register_to_config(_name_or_path=model.name)
            self.model, self.pipe = model, pipe
        return self.pipe

    def wear(self, adapters: Sequence[Worn] = ()) -> dict[str, SemuConfig]:
        """Exactly these adapters on the pipeline, at their strengths; their configs by name.

        Raises:
            ValueError: as `load_adapter`; the pipeline is then without them.
        """
        from ..diffusion.multi_adapter import load_adapters, set_weights
        from ..diffusion.pipeline import remove_adapter

        wanted = {worn.key: worn for worn in adapters}
        for name in [name for name in self.worn if name not in wanted]:
            remove_adapter(self.pipe, name)
            del self.worn[name]
        fresh = {name: worn.place for name, worn in wanted.items() if name not in self.worn}
        self.worn |= load_adapters(self.pipe, fresh)
        set_weights(self.pipe, {name: worn.weight for name, worn in wanted.items()})
        return {name: self.worn[name] for name in wanted}

    def draw(self, request: Request, callback: Callback) -> torch.Tensor:
        """Pictures (N, 3, H, W) with what is on the pipeline, one by one, so that a job can stop in between."""
        import torch

        from ..diffusion.generate import draw

        images = []
        for k in range(request.count):
            images.append(draw(self.pipe, [request.prompt], [request.seed + k], batch_size=1, **request.choices))
            callback.advance()
        return torch.cat(images)

    def draw_base(self, request: Request, callback: Callback) -> torch.Tensor:
        """The same without any adapter; what was drawn lately is not drawn again."""
        from ..diffusion.pipeline import switched_off

        key = (self.model.name, request)
        if key not in self.drawn:
            with switched_off(self.pipe):
                self.drawn[key] = self.draw(request, callback)
            while sum(t.nbytes for t in self.drawn.values()) > MOST and len(self.drawn) > 1:
                self.drawn.popitem(last=False)
        self.drawn.move_to_end(key)
        return self.drawn[key]

    def interrupt(self) -> None:
        """The picture that is being drawn is left at its next step; diffusers' pipelines look at this."""
        if self.pipe is not None and hasattr(self.pipe, "_interrupt"):
            self.pipe._interrupt = True


DESK = Desk()
