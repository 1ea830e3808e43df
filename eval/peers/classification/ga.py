"""GA: gradient ascent on the forget set.

Thudi et al., "Unrolling SGD", arXiv 2109.13398; Graves et al., arXiv 2010.10981. Needs the forget set only. The papers
stop after a few epochs; here the stop rule that SEMU uses ends it, as it diverges otherwise.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from .common import Peer, Task, forgotten_enough


def unlearn(task: Task, lr: float = 1e-3, batchnorm: str = "train") -> nn.Module:
    """Maximises the cross-entropy of the forget set."""
    loss = lambda x, y: -F.cross_entropy(task.logits(x), y)  # noqa: E731
    return task.descend_on(task.forget, loss, lr, batchnorm=batchnorm, until=forgotten_enough(task))


GRID = tuple({"lr": lr} for lr in (3e-4, 1e-3, 3e-3, 1e-2))
PEER = Peer("GA", unlearn, "arXiv 2109.13398", "the forget set", grid=GRID, alone=GRID)
