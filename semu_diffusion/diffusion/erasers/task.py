"""What an eraser is given: the model, the prompts, the choices, and what the model draws for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ...callbacks import Callback
from ..concepts import Pair
from ..config import EraseConfig
from ..data import BATCH, spread
from ..families import Family, moved, select
from ..objectives import OBJECTIVES, squared_error
from ..states import ANCHOR, EMPTY, FORGET, KEEP, Contexts, draw_records, gather

AT_ONCE = 8  # latents that go through the model together where memory is short; it changes nothing that is drawn
STEERS = ("both", "concept", "anchor")


@dataclass
class Task:
    """Prompts, records and batches of one edit of a model, which is frozen and in eval mode.

    Args:
        pairs: Prompts to forget, with their anchors.
        names: What the concepts are called in these.
        kept_prompts: Of what must stay.
        history: A row per training step, for charts: {"step", "loss"}.
    """

    family: Family
    config: EraseConfig
    pairs: list[Pair]
    names: list[str]
    kept_prompts: list[str]
    callback: Callback = field(default_factory=Callback)
    history: list[dict] = field(default_factory=list)

    def __post_init__(self):
        self.pipe, self.model, self.device = self.family.pipe, self.family.model, self.family.device
        self.at_once = BATCH if self.device.type == "cpu" else AT_ONCE
        self.generator = torch.Generator().manual_seed(self.config.seed)

    def draw(self, steer: str = "concept", keep: bool = False) -> None:
        """Draws the records of the concept's trajectories and, where asked for, of the kept prompts'.

        Args:
            steer: Which prompt leads the concept's trajectories: its own, its anchor's, or every second one each.

        Raises:
            ValueError: an unknown `steer`.
        """
        if steer not in STEERS:
            raise ValueError(f"steer must be one of {', '.join(STEERS)}, got {steer!r}")
        config, nothing = self.config, "" if self.family.empty is None else self.family.empty
        forget = spread(self.pairs, config.latents, config.seed)
        kept = [Pair(p, nothing) for p in self.kept_prompts] if keep else []
        self.callback.stage("latents", len(forget) + len(kept))
        prompts = [p for pair in (*forget, *kept) for p in (pair.prompt, pair.anchor)]
        self.contexts = Contexts(self.family, prompts, config.guidance)
        lead = {"both": lambda k: k % 2 == 0, "concept": lambda k: True, "anchor": lambda k: False}[steer]

        def drawn(pairs: list[Pair], steer: list[bool], start: int) -> list[dict]:
            return draw_records(self.family, self.contexts, pairs, steer, config.sampler_steps, config.guidance,
                                start, BATCH, self.callback.advance, self.at_once)  # fmt: skip

        records = drawn(forget, [lead(k) for k in range(len(forget))], config.seed)
        self.states = gather(records, drawn(kept, [True] * len(kept), config.seed + 10**6), [], self.contexts)
        self.values = moved(self.states.contexts, self.device)
        self.forget, self.keep = self.states.of_kind(FORGET), self.states.of_kind(KEEP)
        self.near = self.states.of_kind(EMPTY, ANCHOR)  # on the concept's own trajectories

    @property
    def anchors(self) -> torch.Tensor:
        """Records (N,) of the anchors' own answers; of the empty prompt's where the anchor is that."""
        found = self.states.of_kind(ANCHOR)
        return found if len(found) else self.states.of_kind(EMPTY)

    def pick(self, index: torch.Tensor, n: int) -> torch.Tensor:
        """n of these records (N,), with replacement."""
        return index[torch.randint(len(index), (n,), generator=self.generator)]

    def predict(self, index: torch.Tensor, prompt: torch.Tensor | None = None) -> torch.Tensor:
        """The model's predictions (B, C, H, W) at records, under their own or other rows of prompts (B,)."""
        s, rows = self.states, self.states.prompt[index] if prompt is None else prompt
        x, t = s.x[index].to(self.device), s.t[index].to(self.device)
        return self.family.call(self.model, x, t, select(self.values, rows.to(self.device)))

    def targets(self, index: torch.Tensor, objective: str = "redirect", strength: float = 0.0) -> torch.Tensor:
        """Where the records shall go, from the frozen model's predictions there."""
        parts = (getattr(self.states, key)[index].to(self.device) for key in ("concept", "anchor", "empty"))
        return OBJECTIVES[objective](*parts, strength)

    def distance(self, index: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the predictions at records to a target."""
        return squared_error(self.predict(index), target)

    def drift(self, index: torch.Tensor) -> torch.Tensor:
        """The keep loss: mean squared error to the frozen model's own predictions at records."""
        return self.distance(index, self.states.concept[index].to(self.device))
