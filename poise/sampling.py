"""Drawing images from a trained generator; sample i is the same whatever the batch size."""

from __future__ import annotations

import secrets
from typing import Literal

import torch
from torch import Tensor, nn

from poise import noise

BATCH = 500  # images per forward: bounds memory, has no effect on the images but for rounding


def latents(generator: nn.Module, seed: int, start: int, size: int, stream: str = "latent") -> Tensor:
    """Standard normal latents number ``start`` to ``start + size``: float32 (size, latent_dim), on the CPU."""
    return noise.normal(seed, stream, torch.arange(start, start + size), int(generator.latent_dim))  # type: ignore[arg-type]


def to_uint8(images: Tensor) -> Tensor:
    """Images in [−1, 1], any float type, to uint8 0–255, rounded to nearest."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 images 0–255 to float32 in [−1, 1]."""
    return images.float().div_(127.5).sub_(1)


class Sampler:
    """A trained generator, in evaluation mode, ready to draw from.

    Args:
        generator: ``G(z, y=None) → images in [−1, 1]``; it is set to evaluation mode.
    """

    def __init__(self, generator: nn.Module) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.device = next(generator.parameters()).device

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        seed: int | None = None,
        output: Literal["uint8", "float"] = "uint8",
        start: int = 0,
    ) -> Tensor:
        """Draw ``n`` images.

        Args:
            n: how many, at least 1.
            y: class labels, int64 (n,), for a generator with classes; leave out for one without.
            seed: which images; the same seed gives the same images. None: others every time.
            output: "uint8" for 0–255 as (n, H, W, 3), "float" for [−1, 1] as (n, 3, H, W).
            start: number of the first image, to draw a long series in parts.

        Raises:
            ValueError: n below 1, an unknown output, or labels that do not fit the generator.
        """
        if n < 1:
            raise ValueError(f"n is {n}; draw at least 1 image")
        if output not in ("uint8", "float"):
            raise ValueError(f"output is {output!r}; allowed: 'uint8' (n, H, W, 3) and 'float' (n, 3, H, W)")
        if y is not None and not self.generator.num_classes:
            raise ValueError("this generator has no classes; leave y out")
        if y is not None and y.shape != (n,):
            raise ValueError(f"y has shape {tuple(y.shape)}; {n} images take labels of shape ({n},)")
        seed = secrets.randbits(62) if seed is None else seed
        parts = []
        for first in range(0, n, BATCH):
            size = min(BATCH, n - first)
            z = latents(self.generator, seed, start + first, size).to(self.device)
            labels = () if y is None else (y[first : first + size].to(self.device),)
            images = self.generator(z, *labels)
            parts.append(to_uint8(images).permute(0, 2, 3, 1) if output == "uint8" else images.float())
        return torch.cat(parts).contiguous().cpu()
