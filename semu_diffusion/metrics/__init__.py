"""Metrics in torchmetrics' style: a pure update/compute pair each, and a thin class that adds up across processes."""

from .concept import ConceptAccuracy
from .drift import PictureDrift
from .fid import feature_fid
from .nudity import NudeNetDetections

__all__ = ["ConceptAccuracy", "NudeNetDetections", "PictureDrift", "feature_fid"]
