"""Stable Diffusion with named erasers: `pipe(prompt, erase={"cigarette": 1.0})`.

    pipe = DiffusionPipeline.from_pretrained(base, custom_pipeline="pipelines/semu_stable_diffusion.py", trust_remote_code=True)
    pipe.load_eraser("cigarette", "no-cigarette")  # a folder or user/name
    pipe("a picture of a cigarette", erase={"cigarette": 0.8})

Without `erase`, or with a strength of 0, the base model draws. Everything else is diffusers' own pipeline.
"""  # noqa: E501

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from semu_diffusion import load_adapter


class SemuStableDiffusionPipeline(StableDiffusionPipeline):
    """StableDiffusionPipeline with the argument `erase`: {name of a loaded eraser: strength}."""

    def load_eraser(self, name: str, path: str) -> None:
        """Loads an adapter under a name; it stays off until a call asks for it."""
        load_adapter(self, path, adapter_name=name)
        self.unet.disable_adapters()

    def __call__(self, *args, erase: dict[str, float] | None = None, **kwargs):
        """As StableDiffusionPipeline, with these erasers at these strengths for this call.

        Raises:
            ValueError: the name of an eraser that was not loaded, or a negative strength.
        """
        wanted = {name: strength for name, strength in (erase or {}).items() if strength != 0}
        loaded = getattr(self.unet, "peft_config", {})
        unknown = [name for name in wanted if name not in loaded]
        if unknown:
            raise ValueError(f"no eraser named {unknown[0]!r}; loaded: {', '.join(loaded) or 'none'}")
        if any(strength < 0 for strength in wanted.values()):
            raise ValueError("a strength must not be negative")
        if not wanted:
            return super().__call__(*args, **kwargs)
        self.unet.enable_adapters()
        self.unet.set_adapters(list(wanted), list(wanted.values()))
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.unet.disable_adapters()
