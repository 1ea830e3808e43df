"""The pictograms: 24 objects x 6 styles, their captions, the oracle that names them, the embedded model's folder.

The embedded Stable Diffusion checkpoint under `assets/pictograms` was trained on renders of these
(`scripts/build_pictograms.py`); the oracle is the classifier that judges its pictures.
"""

from ..lazy import lazy

_EXPORTS = {
    **dict.fromkeys(("ASSETS", "NEIGHBOURS", "OBJECTS", "SIZE", "STYLES", "SYNONYMS", "article", "caption"), "words"),
    "Oracle": "oracle",
    "load_oracle": "oracle",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
