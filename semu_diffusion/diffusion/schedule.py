"""When training measures, slows down, begins a round and ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from .adversary import STEPS
from .config import EraseConfig

CHECK_EVERY = 10  # steps between measurements of what is left, until the stop rule is met
# Steps in which the learning rate falls to 0: the last ones of a constant rate still swing by several points.
COOLDOWN = 30


@dataclass
class Progress:
    """Where training is; saved with each checkpoint."""

    step: int = 0
    reached: int = 0  # the step at which the stop rule was met, 0 before
    attacks: list[int] = field(default_factory=list)  # steps after which rounds began: adversarial ones, then lasting
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """The rules of a training, by its choices."""

    config: EraseConfig

    @property
    def rounds(self) -> int:
        """How many come after the plain steps, adversarial ones first."""
        return self.config.adversarial + self.config.lasting

    def end(self, progress: Progress) -> int:
        """The last step: `settle` steps after the stop rule was met, or the end of the last round."""
        last, attacks = self.config.steps, progress.attacks
        if self.rounds:
            begun, over = (attacks[-1], len(attacks) - 1) if attacks else (last, 0)
            return begun + STEPS * (self.rounds - over)
        settle = COOLDOWN if self.config.settle is None else self.config.settle
        return min(progress.reached + settle, last) if progress.reached else last

    def rate(self, progress: Progress) -> float:
        """Ten steps of warm-up, then constant; falls linearly over the last `COOLDOWN` steps."""
        left = (self.end(progress) - progress.step) / COOLDOWN
        return min(1.0, (progress.step + 1) / 10, left)

    def check_due(self, progress: Progress) -> bool:
        """Whether to measure what is left: now and then while a rule waits for it, and at the last step."""
        waiting = not progress.reached or self.rounds
        last = progress.step == self.end(progress)
        return last or bool(waiting and progress.step % CHECK_EVERY == 0)

    def met(self, progress: Progress) -> bool:
        """True once the last two measurements are at or below `stop_at`."""
        left = [row["left"] for row in progress.history if "left" in row]
        return len(left) >= 2 and max(left[-2:]) <= self.config.stop_at

    def attack_due(self, progress: Progress) -> bool:
        """True while rounds are left, once the one before is over; the first once the plain prompts are forgotten."""
        if progress.attacks:
            over = progress.step - progress.attacks[-1] >= STEPS
        else:
            over = self.met(progress) or progress.step >= self.config.steps
        return len(progress.attacks) < self.rounds and over
