"""One picture file to pixels: whatever it holds becomes RGB, upright, of one size.

Pillow decodes. Shrinking is correct by area: every new pixel is the mean of the part of the image that it covers,
fractions of pixels included, so that thin lines neither vanish nor alias.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]
CROPS = ("center", "none")


def decoded(file: Path | IO[bytes], background: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """RGB pixels, uint8 (H, W, 3), of a picture in any of Pillow's formats.

    Turned upright by its EXIF orientation; grey is repeated, 16 bits become 8, and what is transparent is laid over
    ``background``, RGB 0–255.

    Raises:
        OSError, ValueError: a file that is no picture, broken off, or too large; the reason is Pillow's.
    """
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            return _grey_of_many_bits(upright)
        if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
            picture = upright.convert("RGBA")
            under = Image.new("RGBA", picture.size, (*background, 255))
            upright = Image.alpha_composite(under, picture)
        return np.asarray(upright.convert("RGB"))


def _grey_of_many_bits(image: Image.Image) -> Pixels:
    """16 bits, or floats in [0, 1], as 8."""
    grey = np.asarray(image)
    most = 1.0 if np.issubdtype(grey.dtype, np.floating) else 65535.0
    eight = (grey.astype(np.float64) / most * 255).round().clip(0, 255).astype(np.uint8)
    return np.repeat(eight[..., None], 3, axis=2)


def fitted(pixels: Pixels, resolution: int, crop: int | None = None) -> Pixels:
    """A square of ``resolution`` pixels: the centre cut out, then resized.

    Args:
        pixels: uint8 (H, W, 3).
        resolution: height and width wanted, pixels.
        crop: side of the square that is cut out, at most the image's sides; None: the largest.

    Raises:
        ValueError: a crop larger than the image.
    """
    height, width = pixels.shape[:2]
    side = min(height, width) if crop is None else crop
    if side > min(height, width):
        raise ValueError(f"the image is {width}×{height} pixels; a crop of {crop} does not fit")
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == resolution:
        return np.ascontiguousarray(square)
    if side < resolution:
        return np.asarray(Image.fromarray(square).resize((resolution, resolution), Image.Resampling.BICUBIC))
    shares = _shares(side, resolution)
    shrunk = np.einsum("ij,jkc->ikc", shares, square.astype(np.float32), optimize=True)
    shrunk = np.einsum("lk,ikc->ilc", shares, shrunk, optimize=True)
    result: Pixels = shrunk.round().clip(0, 255).astype(np.uint8, order="C")
    return result


def _shares(before: int, after: int) -> npt.NDArray[np.float32]:
    """How much of each old pixel lies in each new one, rows summing to 1: (after, before)."""
    edges = np.arange(after + 1) * (before / after)
    pixels = np.arange(before)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(0) * (after / before)).astype(np.float32)
