"""The suites: each in a file of its own, those over prompts by name in `SUITES`."""

from . import classes, custom, imagenette, nudity, style, wordings
from .suite import Suite

SUITES = {module.SUITE.name: module.SUITE for module in (nudity, imagenette, style, wordings, classes, custom)}


def rows_of(suite: str | None) -> list[tuple[str, str]]:
    """(key, meaning) of a suite's figures, for its table; the pictograms' where it is none over prompts."""
    if suite in SUITES:
        return SUITES[suite].rows
    from .pictograms import ROWS

    return ROWS


__all__ = ["SUITES", "Suite", "rows_of"]
