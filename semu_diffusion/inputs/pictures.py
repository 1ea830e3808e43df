"""One reader for pictures: upright, over white, in RGB, of bounded size, and named where they are damaged."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # not EPS and others that would start another program
MOST_PIXELS = 100_000_000  # 300 MB as RGB; a file of a few kB may ask for far more
SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def list_pictures(folder: str | Path) -> list[Path]:
    """The pictures under a folder, sorted. ValueError without any."""
    files = sorted(f for f in Path(folder).rglob("*") if f.suffix.lower() in SUFFIXES and not is_litter(f))
    if not files:
        raise ValueError(f"no pictures in {folder}; expected {', '.join(SUFFIXES)} files")
    return files


def is_litter(file: Path) -> bool:
    """Whether an operating system left it: hidden files, a Mac's `._x.png` beside x.png, `__MACOSX/`."""
    return file.name.startswith(".") or "__MACOSX" in file.parts


def open_picture(source: str | Path | bytes, name: str = "") -> Image.Image:
    """A picture of a file or its bytes, loaded, and made plain by `to_rgb`.

    Args:
        name: What errors call it; a file's own by default.

    Raises:
        ValueError: no picture of a known format, damaged, cut off, or too large.
    """
    name = name or ("a picture" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and Path(source).exists() and not Path(source).is_file():
        raise ValueError(f"{name} is no file")  # a pipe would be waited for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        with opened as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"it has {width:,} x {height:,} pixels, at most {MOST_PIXELS:,} are read")
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise ValueError(f"{name} is no file; was it removed while the run went on?") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture; expected {', '.join(FORMATS)}") from None
    except Exception as error:  # the decoders raise what they like: OSError, SyntaxError, struct.error, EOFError
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is not a picture that can be read: {said}; take it away or save it again") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: turned as its EXIF says, what is transparent over white, 16-bit grey divided by 257.

    Raises:
        ValueError: values that have no known range.
    """
    if image.mode in SIXTEEN_BITS or image.mode == "F":
        return ImageOps.exif_transpose(from_numbers(image)).convert("RGB")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        own = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", own.size, "white"), own)
    return image.convert("RGB")


def from_numbers(image: Image.Image) -> Image.Image:
    """8-bit grey of a picture in 16 bits, or of floats in [0, 1]; with its EXIF."""
    values, most = np.asarray(image).astype(np.float64), 1 if image.mode == "F" else 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= most):
        raise ValueError(f"its values are not in 0..{most}; save it in 8 or 16 bits")
    grey = Image.fromarray((255 * values / most).round().astype(np.uint8))
    grey.info["exif"] = image.getexif().tobytes()
    return grey


def fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resized so that it covers (height, width), and cropped to the centre; nothing is squeezed."""
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def as_tensor(image: Image.Image) -> Tensor:
    """Floats (3, H, W) in [0, 1] of an RGB picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def read_picture(file: str | Path) -> Tensor:
    """A picture as floats (3, H, W) in [0, 1]. ValueError where it is none."""
    return as_tensor(open_picture(file))
