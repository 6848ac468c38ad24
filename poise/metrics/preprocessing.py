"""What is done to images before an extractor sees them: part of every figure's name, since it moves every figure.

Resizing without care alone changes FID by several units (Parmar et al. 2022, arXiv 2104.11222), so it is pinned here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("tf1-bilinear", "bilinear-antialias", "none")


@dataclass(frozen=True)
class Preprocessing:
    """uint8 images ↦ what a network takes: resized, less ``mean``, over ``std``.

    Args:
        resize: "tf1-bilinear" as TensorFlow 1 did it, bit for bit, in which the papers' FIDs are; "bilinear-antialias",
            each new pixel a weighted mean of all that it covers; "none" for images that must have ``size`` pixels.
        size: pixels; with "none", None takes any.
        mean, std: for each of the three channels, in units of 0–255.
    """

    resize: str
    size: int | None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.resize not in KINDS:
            raise ValueError(f"resize is {self.resize!r}; allowed: {', '.join(map(repr, KINDS))}")
        if self.resize != "none" and not self.size:
            raise ValueError(f"resize is {self.resize!r} and size is {self.size}; give the pixels to resize to")

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, H, W) ↦ float32 (n, 3, size, size).

        Raises:
            ValueError: other images, or of another size where none is resized.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            given = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
            raise ValueError(f"images are {given}; an extractor takes uint8 (n, 3, H, W)")
        x, size = images.contiguous().float(), self.size or 0
        if self.resize == "tf1-bilinear":
            x = tf1_bilinear(x, size)
        elif self.resize == "bilinear-antialias" and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        elif self.resize == "none" and self.size and x.shape[-2:] != (self.size, self.size):
            given = "×".join(map(str, x.shape[-2:]))
            raise ValueError(
                f"images are {given} pixels; this extractor takes {self.size}×{self.size} and resizes none"
            )
        mean, std = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (self.mean, self.std))
        return x.sub_(mean).div_(std)

    def __str__(self) -> str:
        size = f" to {self.size}" if self.size else ""
        values = [", ".join(f"{value:g}" for value in dict.fromkeys(channel)) for channel in (self.mean, self.std)]
        return f"{self.resize}{size}, minus {values[0]}, over {values[1]}"


def tf1_bilinear(x: Tensor, size: int) -> Tensor:
    """Bilinear as TensorFlow 1's ``resize_bilinear``, corners not aligned: float (n, c, H, W) ↦ (n, c, size, size).

    New pixel i lies at ``i·H/size``, its left neighbour is weighted by one less the fraction. Rows are stretched before
    columns, so that fewer pixels are touched than by torch-fidelity, whose every rounding is the same.
    """
    left, right, across = _neighbours(x, x.shape[3], size)
    top, bottom, down = _neighbours(x, x.shape[2], size)
    wide = x.index_select(3, left)
    wide = wide + (x.index_select(3, right) - wide) * across
    upper = wide.index_select(2, top)
    return upper + (wide.index_select(2, bottom) - upper) * down[:, None]


def _neighbours(x: Tensor, before: int, after: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each new pixel: the old one at or before it, the one after it, and how far it lies between them."""
    place = torch.arange(after, dtype=torch.float32, device=x.device) * torch.tensor(before / after)
    first = place.long()
    return first, (first + 1).clamp_max(before - 1), (place - first.float()).to(x.dtype)
