"""SEMU of this package, as `semu erase` does it, within the budget of the peers."""

from __future__ import annotations

from semu_diffusion.callbacks import Callback
from semu_diffusion.diffusion import EraseConfig, run_erasure
from semu_diffusion.diffusion.pipeline import denoiser
from semu_diffusion.diffusion.schedule import CHECK_EVERY
from semu_diffusion.diffusion.trainer import HELD_OUT
from semu_diffusion.inputs.collections import open_collection

from .work import Budget, Edited, Meter


class Within(Callback):
    """Gives a run as many steps as the budget still pays for once it has chosen what is drawn instead."""

    def __init__(self, budget: Budget, meter: Meter):
        self.budget, self.meter = budget, meter

    def planned(self, plan, config: EraseConfig) -> None:
        config.steps = min(config.steps, affordable(config, self.budget, self.meter.samples))


def ours(
    pipe, concept: str, budget: Budget, seed: int, geometry: str = "remain", keep_weight: float = 1.0, **options
) -> Edited:
    """`erase` with its own stop rule; `steps` are as many as the budget surely pays for, with what choosing the anchor
    took, if that is fewer than its default or what `options` say.

    Args:
        **options: Fields of `EraseConfig`.
    """
    config = EraseConfig(
        concept=concept, seed=seed, geometry=geometry, keep_weight=keep_weight, latents=budget.latents,
        keep_latents=budget.keep_latents, sampler_steps=budget.sampler_steps, guidance=budget.guidance,
        batch_size=budget.batch_size, **options,
    )  # fmt: skip
    meter = Meter(denoiser(pipe))
    try:
        facts = run_erasure(pipe, config, callback=Within(budget, meter)).facts
    finally:
        meter.close()
    return Edited(pipe, facts["trained"], facts["written"]["bytes"])


def affordable(config: EraseConfig, budget: Budget, spent: int) -> int:
    """Training steps that the budget pays for after what is `spent` and after drawing (3 and 2 predictions a step, of
    given pictures, too), gradient, geometry, and the truncation of what is written.

    Raises:
        ValueError: for none.
    """
    given = lambda source: len(open_collection(source)) if source else 0  # noqa: E731
    forget, keep = config.latents + given(config.forget_images), config.keep_latents + given(config.retain_images)
    drawn = config.sampler_steps * (3 * forget + 2 * keep)
    remain = config.geometry == "remain"
    basis = config.gradient_records + remain * (1 + (config.compress < 1)) * config.moment_records
    each = (2 if config.keep_weight else 1) * config.batch_size + HELD_OUT / CHECK_EVERY
    left = budget.evaluations - spent - drawn - basis - HELD_OUT  # what is left to go is measured at the end, too
    steps = int(left / each)
    if steps < 1:
        raise ValueError(f"the budget of {budget.evaluations} evaluations leaves no training step; raise it")
    return steps


def variant(geometry: str, keep_weight: float):
    """`ours` with these choices."""

    def edit(pipe, concept: str, budget: Budget, seed: int, **options) -> Edited:
        return ours(pipe, concept, budget, seed, geometry, keep_weight, **options)

    edit.__doc__ = f"SEMU, {geometry} basis, {'with' if keep_weight else 'without'} self-distilled keep prompts."
    return edit
