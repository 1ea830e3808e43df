"""The trained adapter made small on the pipeline, before it is measured and written."""

from __future__ import annotations

import torch

from ..adapter import SemuConfig
from ..adapter.base_layers import full_precision
from ..adapter.effects import effects
from ..adapter.shrink import Shrunk, shrink
from ..callbacks import Callback
from .trainer import Trainer


def make_small(trainer: Trainer, semu: SemuConfig, callback: Callback) -> Shrunk:
    """The trained adapter as its files hold it, so that what is measured from here on is what is shipped."""
    config, model = trainer.config, trainer.family.model
    callback.stage("truncation")
    with full_precision(trainer.accelerator.device):
        small = shrink(model, config.compress, config.precision, effects=effects_on_concept(trainer, semu))
    callback.note(f"written: {config.compress:.0%} of what each layer does, in {config.precision}: {small.words()}")
    return small


def effects_on_concept(trainer: Trainer, semu: SemuConfig) -> dict[str, torch.Tensor]:
    """What an update is truncated by: what it does on the concept's records, on inputs that the adapted model sees.

    None, that is the plain norm, outside of the remain geometry and where nothing is to be truncated.
    """
    config, model = trainer.config, trainer.family.model
    if config.compress == 1 or config.geometry != "remain":
        return {}
    return effects(model, trainer.forgotten_forward(model), semu.damping, ranks=trainer.ranks)
