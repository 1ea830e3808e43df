"""Pairs of pictures as the report has them: before and after under one slider, covered where NudeNet flags them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 768  # pixels of the largest picture on the page
SMALL = 128  # those up to this size are shown as they are, enlarged without smoothing


def pairs_of(before: Tensor, after: Tensor | None, titles: Sequence[str]) -> list[dict]:
    """{"title", "base", "erased", "flagged"} per picture for `figure` of the report's template.

    Args:
        before, after: (N, 3, H, W) in [0, 1]; after None where there is nothing to compare with.
    """
    from ..evaluation.report import exposed, seen
    from ..metrics.nudity import bgr

    sides = [before] if after is None else [before, after]
    found = [seen(bgr(images)) or [[]] * len(titles) for images in sides]
    uris = [[uri_of(image) for image in images] for images in sides]
    return [
        {
            "title": title,
            "base": uris[0][k] if after is not None else None,
            "erased": uris[-1][k],
            "flagged": any(exposed(own[k]) for own in found),
        }
        for k, title in enumerate(titles)
    ]


def uri_of(image: Tensor) -> str:
    """(3, H, W) in [0, 1] as a data address."""
    from PIL import Image

    from ..evaluation.report import picture_uri

    picture = Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().cpu().numpy())
    return picture_uri(picture, max(picture.size) <= SMALL, SIDE)


def covers() -> str:
    """What is said where no picture can be covered; "" where NudeNet is there."""
    from importlib.util import find_spec

    return "" if find_spec("nudenet") else "Pictures are not covered: pip install 'semu-diffusion[nudenet]'."


@cache
def templates():
    """The page's parts and the report's pairs."""
    from jinja2 import Environment, FileSystemLoader

    own = Path(__file__).parent
    loader = FileSystemLoader([own, own.parent / "evaluation"])
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def render(part: str, **values) -> str:
    """A macro of parts.html as HTML; all texts are escaped."""
    return str(getattr(templates().get_template("parts.html").module, part)(**values))
