"""Adversarial rounds: shifts of the text states that still bring the concept back, followed while they are forgotten.

The inner attack of AdvUnlearn (arXiv 2405.15234) and STEREO (arXiv 2408.16807), but on what the denoiser is given
rather than on tokens: no text encoder is needed, and what tokens or learned embeddings can say lies within reach. The
attack takes one signed step (arXiv 1706.06083, eq. 1) for each training step instead of many before it, as it goes on
from where it was (arXiv 1904.12843): the defence never meets the same shift twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .families import Conditions, select

SHIFTS = 8  # more of them each round; every second one starts from the empty prompt instead of the concept's
STEPS = 80  # training steps of a round
RATE = 0.1  # of the text states' standard deviation, per step


class Adversary:
    """The shifts found so far, (K, tokens, width); number k = 1 ... K of a record adds shift k - 1, 0 adds nothing."""

    def __init__(self, contexts: Conditions, empty_row: int | None):
        self.contexts, self.text, self.empty_row = contexts, contexts.get("text"), empty_row
        self.shifts = None if self.text is None else self.text.new_zeros(0, *self.text.shape[1:])

    def __len__(self) -> int:
        return 0 if self.shifts is None else len(self.shifts)

    def conditions(self, prompt: torch.Tensor, number: torch.Tensor | None = None) -> Conditions:
        """The conditions of records with these prompts (N,), under the shifts of their numbers (N,) where given."""
        if number is None or not len(self):
            return select(self.contexts, prompt)
        number = number.to(prompt.device)
        found = select(self.contexts, self.rows(prompt, number))
        return {**found, "text": self.shifted(found["text"], number)}

    def rows(self, prompt: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Which prompts' states (N,) are shifted: even shifts are added to those of the empty prompt."""
        if self.empty_row is None:
            return prompt
        return torch.where((number > 0) & (number % 2 == 0), self.empty_row, prompt)

    def shifted(self, text: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Text states (N, tokens, width) with the shift of each record's number (N,) added."""
        none = torch.zeros_like(self.shifts[:1])
        return text + torch.cat([none, self.shifts])[number].to(text.dtype)

    def pick(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Numbers (count,) for a batch: every second record under some shift, once there are any."""
        numbers = torch.randint(1, len(self) + 1, (count,), generator=generator) if len(self) else torch.zeros(count)
        return (numbers * (torch.arange(count) % 2)).long()

    def spread(self, count: int) -> torch.Tensor:
        """Numbers (count,) for held-out records: none and each of the shifts in turn."""
        return torch.arange(count) % (len(self) + 1)

    def start(self, generator: torch.Generator) -> None:
        """Adds `SHIFTS` small random shifts, from where `follow` goes on."""
        fresh = 0.1 * torch.randn(SHIFTS, *self.shifts.shape[1:], generator=generator).to(self.text)
        self.shifts = torch.cat([self.shifts, self.size * fresh])

    @property
    def size(self) -> float:
        """The text states' standard deviation."""
        return self.text.float().std().item()

    def pull(self, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Gradient of a loss by all shifts, (K, tokens, width)."""
        self.shifts.requires_grad_(True)
        try:
            return torch.autograd.grad(loss(), self.shifts)[0]
        finally:
            self.shifts.requires_grad_(False)

    def follow(self, pull: torch.Tensor) -> None:
        """One step of the shifts down a loss with this gradient; those that it does not depend on stay."""
        self.shifts = self.shifts - RATE * self.size * pull.sign()
