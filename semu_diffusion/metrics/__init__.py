"""Metrics in torchmetrics' style: a pure update/compute pair each, and a thin class that adds up across processes."""

from .clip import ClipEncoder, ClipScore
from .concept import ConceptAccuracy
from .drift import PictureDrift
from .fid import InceptionDistance, feature_fid
from .kid import KernelDistance
from .naturalness import Naturalness
from .nudity import NudeNetDetections
from .perceptual import PerceptualDistance

__all__ = [
    "ClipEncoder",
    "ClipScore",
    "ConceptAccuracy",
    "InceptionDistance",
    "KernelDistance",
    "Naturalness",
    "NudeNetDetections",
    "PerceptualDistance",
    "PictureDrift",
    "feature_fid",
]
