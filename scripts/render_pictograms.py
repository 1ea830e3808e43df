"""Renders pictograms: one emoji of the Noto Color Emoji font (OFL) per picture, in one of six styles made with PIL.

    python scripts/render_pictograms.py sheet.png        # a contact sheet, one column per style

Needs the font (Debian: apt-get install fonts-noto-color-emoji).
"""

from __future__ import annotations

import functools
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from semu_diffusion.pictograms.words import OBJECTS, SIZE, STYLES

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
EMOJI = dict(zip(OBJECTS, "🚬🔪💣🍷🍺🐱🐶✈🚀🚗🍎🍌🍕🎸☂🏠🌳🌻🐟🦋⚽👑🎈🍄", strict=True))
CANVAS = 2 * SIZE  # drawn at twice the size, so that edges are smooth


@functools.cache
def glyph(obj: str) -> Image.Image:
    """The emoji as RGBA, cropped to its ink. The font is a bitmap font with one size, 109."""
    image = Image.new("RGBA", (160, 160))
    font = ImageFont.truetype(str(FONT), 109)
    ImageDraw.Draw(image).text((12, 12), EMOJI[obj], font=font, embedded_color=True)
    return image.crop(image.getbbox())


def pose(obj: str, rng: np.random.Generator) -> Image.Image:
    """The glyph mirrored, turned (+-12 degrees), scaled and placed at random on a clear canvas."""
    image = glyph(obj)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.uniform(0.68, 0.92) * CANVAS / max(image.size)
    image = image.resize([round(s * scale) for s in image.size], Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, expand=True)
    room = [max(CANVAS - s, 0) for s in image.size]
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    canvas.paste(image, tuple(int(rng.uniform(0.25, 0.75) * r) for r in room))
    return canvas


def colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A random colour (3,) in [0, 1] with saturation and value in the given ranges."""
    hue, s, v = rng.random() * 6, rng.uniform(*saturation), rng.uniform(*value)
    wheel = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return v * (1 - s + s * wheel)


def gradient(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A linear gradient (H, W, 3) between two colours in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j]
    t = (np.cos(angle) * x + np.sin(angle) * y)[..., None] / 2.83 + 0.5
    return (1 - t) * first + t * second


def clouds(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise (H, W, 1) in [0, 1]."""
    small = Image.fromarray((255 * rng.random((cells, cells))).astype(np.uint8))
    return np.asarray(small.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC), np.float32)[..., None] / 255


def blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a (H, W, 1) array in [0, 1]."""
    image = Image.fromarray((255 * np.clip(mask[..., 0], 0, 1)).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)[..., None] / 255


def strokes(rgb: np.ndarray, alpha: np.ndarray, width: int) -> np.ndarray:
    """Wide soft lines (H, W, 1) along the edges of colour and outline: an f8 autoencoder cannot draw thin ones."""
    layers = np.concatenate([rgb * alpha, alpha], axis=-1)
    dy, dx = np.gradient(layers, axis=(0, 1))
    edge = np.clip(2.5 * np.sqrt(dx**2 + dy**2).max(-1) - 0.15, 0, 1)
    image = Image.fromarray((255 * edge).astype(np.uint8)).filter(ImageFilter.MaxFilter(width))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), np.float32)[..., None] / 255


def photo(rgb, alpha, rng):
    """The emoji before a gradient, with a soft shadow and light."""
    background = gradient(rng, colour(rng, (0.2, 0.6), (0.5, 0.95)), colour(rng, (0.2, 0.6), (0.5, 0.95)))
    background = background * (0.85 + 0.3 * clouds(rng, 4))
    shadow = np.roll(blurred(alpha, 5), (5, 4), (0, 1))
    return (1 - alpha) * background * (1 - 0.45 * shadow) + alpha * rgb * rng.uniform(0.88, 1.05)


def watercolor(rgb, alpha, rng):
    """Pale pigment that runs over white paper, with a white margin."""
    wash = gradient(rng, colour(rng, (0.15, 0.35), (0.9, 1.0)), colour(rng, (0.15, 0.35), (0.9, 1.0)))
    soft = np.asarray(Image.fromarray((255 * rgb).astype(np.uint8)).filter(ImageFilter.ModeFilter(7)), np.float32) / 255
    alpha = blurred(alpha, 1.5)
    pigment = 0.55 + 0.45 * clouds(rng, 9)
    y, x = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j]
    margin = np.clip(6.5 * (1 - np.maximum(np.abs(x), np.abs(y)))[..., None] - 0.9 + clouds(rng, 12), 0, 1)
    picture = (1 - alpha) * wash + alpha * (1 - 0.8 * pigment * (1 - soft))
    return 1 - margin * (1 - picture)


def sketch(rgb, alpha, rng):
    """Grey pencil on light paper: dark wide lines and a light shading."""
    paper = rng.uniform(0.86, 0.98) - 0.06 * clouds(rng, 5)
    shade = rgb.mean(-1, keepdims=True)
    picture = paper * (1 - alpha * 0.5 * (1 - shade)) * (1 - 0.75 * strokes(rgb, alpha, 5))
    return np.repeat(picture, 3, -1)


def neon(rgb, alpha, rng):
    """Glowing coloured lines on a near-black wall."""
    wall = gradient(rng, colour(rng, (0.5, 0.9), (0.03, 0.16)), colour(rng, (0.5, 0.9), (0.03, 0.16)))
    line = strokes(rgb, alpha, 5)
    peak = rgb.max(-1, keepdims=True)
    hue = np.clip((rgb - 0.55 * rgb.min(-1, keepdims=True)) / (peak + 1e-3) + 0.1, 0, 1)
    grey = (peak - rgb.min(-1, keepdims=True)) < 0.15
    tube = np.where(grey, colour(rng, (0.7, 0.9), (1.0, 1.0)), hue)
    glow = np.clip(line + 0.7 * blurred(line, 5) + 0.25 * alpha, 0, 1)
    return wall * (1 - glow) + tube * glow


def sepia(rgb, alpha, rng):
    """An old brown photograph, darker in the corners."""
    grey = photo(rgb, alpha, rng) @ np.array([0.3, 0.59, 0.11])
    y, x = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j]
    grey = (0.12 + 0.88 * grey) * (1.08 - 0.28 * (x**2 + y**2))
    return grey[..., None] ** np.array([0.75, 1.0, 1.45]) * np.array([1.0, 0.9, 0.75])


def blueprint(rgb, alpha, rng):
    """White wide lines and a light fill on blue."""
    blue = np.array([0.07, 0.22, 0.62]) * rng.uniform(0.75, 1.25) * (0.85 + 0.3 * clouds(rng, 4))
    fill = alpha * (0.1 + 0.45 * rgb.mean(-1, keepdims=True))
    white = np.clip(0.85 * strokes(rgb, alpha, 5) + fill, 0, 1)
    return blue * (1 - white) + white * np.array([0.92, 0.96, 1.0])


RENDERERS = dict(zip(STYLES, (photo, watercolor, sketch, neon, sepia, blueprint), strict=True))


def render(obj: str, style: str, seed: tuple[int, ...]) -> np.ndarray:
    """One picture, uint8 (64, 64, 3); the same for the same (object, style, seed)."""
    rng = np.random.default_rng([OBJECTS.index(obj), STYLES.index(style), *seed])
    layer = np.asarray(pose(obj, rng), np.float32) / 255
    picture = RENDERERS[style](layer[..., :3], layer[..., 3:], rng)
    image = Image.fromarray((255 * np.clip(picture, 0, 1)).astype(np.uint8))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


def _render_cell(cell: tuple[str, str, int, int]) -> np.ndarray:
    obj, style, count, seed = cell
    return np.stack([render(obj, style, (seed, i)) for i in range(count)])


def render_all(count: int, seed: int) -> np.ndarray:
    """`count` pictures per (object, style): uint8 (24, 6, count, 64, 64, 3)."""
    cells = [(o, s, count, seed) for o in OBJECTS for s in STYLES]
    with ProcessPoolExecutor() as pool:
        pictures = np.stack(list(pool.map(_render_cell, cells)))
    return pictures.reshape(len(OBJECTS), len(STYLES), count, SIZE, SIZE, 3)


def sheet(pictures: np.ndarray) -> Image.Image:
    """A contact sheet of (rows, columns, 64, 64, 3) uint8 pictures."""
    rows, columns = pictures.shape[:2]
    return Image.fromarray(pictures.transpose(0, 2, 1, 3, 4).reshape(rows * SIZE, columns * SIZE, 3))


if __name__ == "__main__":
    pictures = render_all(2, seed=0)  # (24, 6, 2, 64, 64, 3)
    sheet(pictures.reshape(12, 24, SIZE, SIZE, 3)).save(sys.argv[1])
