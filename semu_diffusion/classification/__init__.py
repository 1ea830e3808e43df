"""Making image classifiers forget examples or classes."""

from ..lazy import lazy

_EXPORTS = {
    "Data": "data",
    "Examples": "data",
    "PictureJudge": "features",
    "ResNet18": "models",
    "Split": "splits",
    "UnlearnConfig": "config",
    "Unlearning": "unlearning",
    "VGG16": "models",
    "adapter_off": "merging",
    "class_split": "splits",
    "compare": "comparison",
    "fit": "training",
    "index_split": "splits",
    "load_classifier": "models",
    "load_data": "data",
    "merge_adapter": "merging",
    "predict": "training",
    "random_split": "splits",
    "save_classifier": "models",
    "unlearn": "unlearning",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
