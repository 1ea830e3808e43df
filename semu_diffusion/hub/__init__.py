"""The Hugging Face Hub: push and pull, adapters by `user/name`, the model card, what is in a file."""

from ..lazy import lazy

_EXPORTS = {
    "EraserLoaderMixin": "loaders",
    "is_repo": "transfer",
    "load_adapter": "loaders",
    "load_adapters": "loaders",
    "local": "transfer",
    "pull": "transfer",
    "push_to_hub": "transfer",
    "read_contents": "contents",
    "write_card": "card",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
