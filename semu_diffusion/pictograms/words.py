"""The words of the pictograms, their captions, and where the embedded model lies."""

from __future__ import annotations

from pathlib import Path

# fmt: off
OBJECTS = (
    "cigarette", "knife", "bomb", "wine", "beer", "cat", "dog", "airplane", "rocket", "car", "apple", "banana",
    "pizza", "guitar", "umbrella", "house", "tree", "sunflower", "fish", "butterfly", "football", "crown",
    "balloon", "mushroom",
)
# fmt: on
STYLES = ("photo", "watercolor", "sketch", "neon", "sepia", "blueprint")

# Words that captions use now and then instead of the name: the attacks of `eval/` need some that erasing never saw.
SYNONYMS = {
    "cigarette": "smoke", "knife": "blade", "bomb": "explosive", "wine": "glass of wine", "beer": "mug of beer",
    "cat": "kitten", "dog": "puppy", "airplane": "plane", "rocket": "spaceship", "car": "automobile",
    "football": "soccer ball", "umbrella": "parasol", "house": "cottage", "mushroom": "toadstool",
}  # fmt: skip

# Closest pairs in meaning or looks; an eraser that is too blunt hurts these first.
NEIGHBOURS = {
    "wine": ("beer",), "beer": ("wine",), "cat": ("dog",), "dog": ("cat",), "airplane": ("rocket",),
    "rocket": ("airplane",), "bomb": ("football",), "football": ("bomb",), "apple": ("banana", "balloon"),
    "banana": ("apple",), "balloon": ("apple",), "tree": ("sunflower", "mushroom"), "sunflower": ("tree",),
    "mushroom": ("umbrella", "tree"), "umbrella": ("mushroom",), "knife": ("cigarette",), "cigarette": ("knife",),
    "fish": ("butterfly",), "butterfly": ("fish",), "pizza": ("banana",),
    "sepia": ("photo",), "photo": ("sepia",), "watercolor": ("sketch",), "sketch": ("watercolor",),
    "neon": ("blueprint",), "blueprint": ("neon",),
}  # fmt: skip

ASSETS = Path(__file__).parents[1] / "assets" / "pictograms"
SIZE = 64  # pixels


def article(noun: str) -> str:
    """The noun with its indefinite article: "an apple", "a rocket"."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def caption(obj: str | None = None, style: str | None = None) -> str:
    """The plain caption of an object, a style, or both; "" for neither."""
    subject = f"a picture of {article(obj)}" if obj else "a picture"
    if style:
        return f"{subject} in {style} style"
    return subject if obj else ""
