"""Erasing concepts from diffusion pipelines."""

from ..lazy import lazy

_EXPORTS = {
    "EraseConfig": "config",
    "Erasure": "erasure",
    "draw": "generate",
    "erase": "erasure",
    "load_adapter": "pipeline",
    "load_pipeline": "loading",
    "run_erasure": "erasure",
    "save_lora": "lora",
    "set_scale": "pipeline",
    "set_weights": "multi_adapter",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
