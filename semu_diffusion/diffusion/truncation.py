"""The trained adapter made small on the pipeline, before it is measured and written."""

from __future__ import annotations

from collections.abc import Callable

from ..adapter import SemuConfig
from ..adapter.base_layers import full_precision
from ..adapter.moments import Root, second_moments
from ..adapter.shrink import Shrunk, shrink
from ..adapter.subspace import Roots
from ..adapter.weights import semu_layers
from ..callbacks import Callback
from .trainer import Trainer


def make_small(trainer: Trainer, semu: SemuConfig, callback: Callback) -> Shrunk:
    """The trained adapter as its files hold it, so that what is measured from here on is what is shipped."""
    config, model = trainer.config, trainer.family.model
    callback.stage("truncation")
    with full_precision(trainer.accelerator.device):
        small = shrink(model, config.compress, config.precision, root=roots_of_concept(trainer, semu))
    callback.note(f"written: {config.compress:.0%} of what each layer does, in {config.precision}: {small.words()}")
    return small


def roots_of_concept(trainer: Trainer, semu: SemuConfig) -> Callable[[str], Root | None]:
    """The metric in which an update is truncated: layer -> root of the moments of its inputs on the concept's records.

    These are the inputs that the adapted model sees. None, the plain norm, outside of the remain geometry, as moments
    may not fit there, and where nothing is to be truncated.
    """
    config, model = trainer.config, trainer.family.model
    if config.compress == 1 or config.geometry != "remain":
        return lambda name: None
    semu.ranks = {name: layer.r["default"] for name, layer in semu_layers(model).items()}
    on_host, ranks = trainer.batches.on_host, trainer.ranks
    C = second_moments(model, semu, trainer.forgotten_forward(model), on_host=on_host, ranks=ranks)
    roots = Roots(C, semu.damping)
    return lambda name: roots(name, trainer.accelerator.device)
