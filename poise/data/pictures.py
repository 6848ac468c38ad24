"""One picture file to pixels: whatever it holds becomes RGB, upright, of one size.

Pillow decodes. Shrinking is correct by area: every new pixel is the mean of the part of the image that it covers,
fractions of pixels included, so that thin lines neither vanish nor alias.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]
UNREADABLE = (
    *(OSError, ValueError, EOFError, IndexError),
    *(SyntaxError, struct.error, zlib.error),  # Pillow, of broken PNG and TIFF files
    *(Image.DecompressionBombError, zipfile.BadZipFile),
)
"""what decoding a picture raises where the picture is at fault"""


def decoded(file: Path | IO[bytes], background: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """RGB pixels, uint8 (H, W, 3), of a picture in any of Pillow's formats.

    Turned upright by its EXIF orientation; grey is repeated, 16 bits become 8, and what is transparent is laid over
    ``background``, RGB 0–255.

    Raises:
        one of UNREADABLE: a file that is no picture, broken off, or too large; the reason is Pillow's.
    """
    try:
        image = Image.open(file)
    except UnidentifiedImageError:  # its message shows a Python object
        raise ValueError("it is no picture of a known format, or its start is damaged") from None
    with image:
        return rgb(image, background)


def rgb(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """The same of Pillow's image."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return _grey_of_many_bits(upright)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        picture = upright.convert("RGBA")
        under = Image.new("RGBA", picture.size, (*background, 255))
        upright = Image.alpha_composite(under, picture)
    return np.array(upright.convert("RGB"))


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
    side = _side(pixels, crop)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(pixels[top : top + side, left : left + side], resolution, resolution)


def scaled(pixels: Pixels, resolution: int, crop: int | None = None) -> Pixels:
    """The whole picture at the scale at which ``fitted`` would show its square, for squares cut elsewhere.

    Args:
        pixels: uint8 (H, W, 3).
        resolution: that ``crop`` pixels become, pixels.
        crop: as above.

    Returns:
        uint8 (H·resolution/crop, W·resolution/crop, 3), rounded, neither below resolution.
    """
    side = _side(pixels, crop)
    height, width = (max(resolution, round(length * resolution / side)) for length in pixels.shape[:2])
    return resized(pixels, height, width)


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Another size: shrunk by area, enlarged by bicubic interpolation.

    Args:
        pixels: uint8 (H, W, 3).
        height, width: wanted, pixels.
    """
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    if height > pixels.shape[0] or width > pixels.shape[1]:
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = _shares(pixels.shape[0], height), _shares(pixels.shape[1], width)
    shrunk = np.einsum("ij,jkc->ikc", rows, pixels.astype(np.float32), optimize=True)
    shrunk = np.einsum("lk,ikc->ilc", columns, shrunk, optimize=True)
    result: Pixels = shrunk.round().clip(0, 255).astype(np.uint8, order="C")
    return result


def _side(pixels: Pixels, crop: int | None) -> int:
    """Of the square that is cut out. Raises ValueError where it does not fit."""
    height, width = pixels.shape[:2]
    if crop is not None and not 1 <= crop <= min(height, width):
        raise ValueError(f"the image is {width}×{height} pixels; a crop of {crop} does not fit")
    return min(height, width) if crop is None else crop


def _shares(before: int, after: int) -> npt.NDArray[np.float32]:
    """How much of each old pixel lies in each new one, rows summing to 1: (after, before)."""
    edges = np.arange(after + 1) * (before / after)
    pixels = np.arange(before)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(0) * (after / before)).astype(np.float32)
