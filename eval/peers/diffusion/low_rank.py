"""SPM and LECO: a plain low-rank adapter that erases, held by anchor prompts.

Lyu et al., "One-dimensional Adapter to Rule Them All", CVPR 2024 (arXiv 2312.16145), whose adapters have rank 1; LECO
(github.com/p1atdev/LECO) is the same loss with a LoRA in the attention blocks.
"""

from __future__ import annotations

import torch
from peft import LoraConfig
from torch import nn

from .work import Budget, Edited, Work, update


def low_rank(
    pipe, concept: str, budget: Budget, seed: int, prompts: str = "name", lr: float = 1e-3, keep_weight: float = 1.0,
    rank: int = 4, strength: float = 1.0,
) -> Edited:  # fmt: skip
    """SPM eq. 3 and 4: eps(x_t, c) goes to eps(x_t, c0) - strength (eps(x_t, c) - eps(x_t, c0)); anchors stay.

    The adapter is left on the pipeline, as it would be shipped.
    """
    work = Work(pipe, concept, budget, seed, prompts)
    names = [name for name, m in work.model.named_modules()
             if "attentions" in name and type(m) in (nn.Linear, nn.Conv2d)]  # fmt: skip
    work.model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=True))
    parameters = [p for p in work.model.parameters() if p.requires_grad]
    optimizer, n = torch.optim.Adam(parameters, lr), budget.batch_size
    for _ in work.rounds(2 * n):
        index = work.pick(work.forget, n)
        loss = work.distance(index, work.targets(index, "redirect", strength))
        update(optimizer, loss + keep_weight * work.drift(work.pick_kept(n)))
    return work.done(sum(p.numel() for p in parameters))
