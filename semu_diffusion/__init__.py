"""semu-diffusion: erase concepts from diffusion models with small adapters (SEMU, arXiv 2502.07587)."""

from .lazy import lazy

__version__ = "0.1.0"

_EXPORTS = {
    "SemuConfig": "adapter",
    "EraseConfig": "diffusion",
    "Erasure": "diffusion",
    "draw": "diffusion",
    "erase": "diffusion",
    "load_adapter": "hub",
    "load_adapters": "hub",
    "load_pipeline": "diffusion",
    "pull": "hub",
    "push_to_hub": "hub",
    "save_lora": "diffusion",
    "set_scale": "diffusion",
    "set_weights": "diffusion",
}
__all__ = ["__version__", *_EXPORTS]
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
