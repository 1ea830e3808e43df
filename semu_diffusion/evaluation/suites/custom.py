"""Custom: prompts with labels, and a classifier or CLIP that names what a picture shows."""

from __future__ import annotations

from collections.abc import Sequence

from ...metrics.clip import ClipEncoder
from ..judges import Namer, OracleNamer, check_names, clip_namer, image_classifier
from ..prompts import Shot
from ..scores import named_row
from .suite import Suite

OF_CLASSES = [  # what suites whose labels are classes say of the figures
    ("UA", "% of forgotten pictures in which the class is no longer recognised"),
    ("IRA", "% of the other classes recognised"),
]


def judges(config, encoder: ClipEncoder | None, shots: Sequence[Shot], device, default: str | None = None) -> list:
    """The one that names. ValueError where there is none, or it does not know a label."""
    namer = namer_of(config, encoder, shots, device, default)
    check_names(namer, [shot.label for shot in shots if shot.part != "captions"])
    return [namer]


def namer_of(config, encoder: ClipEncoder | None, shots: Sequence[Shot], device, default: str | None) -> Namer:
    """The classifier: the pictograms' oracle, one of transformers, or CLIP asked for the prompts' labels."""
    from ...pictograms import load_oracle

    if config.classifier == "pictograms":
        return OracleNamer(load_oracle())
    if config.classifier or default:
        return image_classifier(config.classifier or default, device)
    if encoder is None:
        raise ValueError("the suite custom needs --classifier (a model of transformers, or pictograms) or --clip")
    return clip_namer(encoder, config.clip, list(dict.fromkeys(s.label for s in shots if s.part != "captions")))


def row(records: Sequence[dict], config) -> dict:
    """UA and IRA over all but the captions."""
    return named_row([r for r in records if r["part"] != "captions"])


SUITE = Suite(
    name="custom",
    figures=[
        ("UA", "% of forgotten pictures in which the label is no longer recognised"),
        ("IRA", "% of the other labels recognised"),
    ],
    row=row,
    judges=judges,
)
