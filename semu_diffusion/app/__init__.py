"""The page, `semu app`: erase, look, measure and share in a browser. Needs the extra `app`; importing this does not."""

from ..lazy import lazy

_EXPORTS = {"build_page": "page", "export_space": "space", "launch": "page"}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
