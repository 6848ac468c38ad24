"""Drawing images from a trained generator; sample i is the same whatever the batch size."""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from poise import noise
from poise.sampling.distributions import Latent, check_labels, labels, latents, truncated
from poise.sampling.images import to_uint8
from poise.sampling.statistics import StandingStatistics

BATCH = 500  # images per forward: bounds memory, has no effect on the images but for rounding


class Sampler:
    """A trained generator, in evaluation mode, ready to draw from.

    Args:
        generator: ``G(z, y=None) → images in [−1, 1]``; it is set to evaluation mode.
        distribution: of the latents it was trained on, of ``poise.sampling.LATENTS``; standard normal by default.
    """

    def __init__(self, generator: nn.Module, distribution: Latent = noise.normal) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.device = next(generator.parameters()).device
        self.distribution = distribution
        self._standing: dict[int, StandingStatistics] = {}

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | int | None = None,
        seed: int | None = None,
        output: Literal["uint8", "float"] = "uint8",
        start: int = 0,
        truncation: float | None = None,
        standing: int = 0,
    ) -> Tensor:
        """Draw ``n`` images.

        Args:
            n: how many, at least 1.
            y: for a generator with classes: labels, int64 (n,); one class for all; or None for labels drawn uniformly,
                that of image i by the seed and i.
            seed: which images; the same seed gives the same images. None: others every time.
            output: "uint8" for 0–255 as (n, H, W, 3), "float" for [−1, 1] as (n, 3, H, W). Points in the plane are
                float32 (n, 2) in either case.
            start: number of the first image, to draw a long series in parts.
            truncation: latents beyond this many σ are drawn again, any number above 0 (Brock et al. 2019, section 3.1).
            standing: batch norm normalizes by statistics of this many batches drawn with the same truncation and, where
                one class is asked for, of that class; they are computed once. 0: by its running averages.

        Raises:
            ValueError: n below 1, an unknown output, a truncation of 0 or below or of latents that are not normal, or
                labels that do not fit the generator.
        """
        if n < 1:
            raise ValueError(f"n is {n}; draw at least 1 image")
        if output not in ("uint8", "float"):
            raise ValueError(f"output is {output!r}; allowed: 'uint8' (n, H, W, 3) and 'float' (n, 3, H, W)")
        if standing < 0:
            raise ValueError(f"standing is {standing}; give a number of batches, or 0 for the running averages")
        distribution = truncated(self.distribution, truncation)
        self._check(y, n)
        seed = secrets.randbits(62) if seed is None else seed
        parts = []
        with self._statistics(standing, truncation, y if isinstance(y, int) else None):
            for first in range(0, n, BATCH):
                size = min(BATCH, n - first)
                z = latents(self.generator, seed, start + first, size, distribution=distribution).to(self.device)
                if isinstance(y, Tensor):
                    part: Tensor | None = y[first : first + size]
                else:
                    part = labels(self.generator, seed, start + first, size, y)
                images = self.generator(z, *(() if part is None else (part.to(self.device),)))
                is_uint8 = output == "uint8" and images.ndim == 4
                parts.append(to_uint8(images).permute(0, 2, 3, 1) if is_uint8 else images.float())
        return torch.cat(parts).contiguous().cpu()

    def _check(self, y: Tensor | int | None, n: int) -> None:
        if y is None:
            return
        classes = int(self.generator.num_classes)  # type: ignore[arg-type]
        if not classes:
            raise ValueError("this generator has no classes; leave y out")
        if isinstance(y, Tensor) and y.shape != (n,):
            raise ValueError(f"y has shape {tuple(y.shape)}; {n} images take labels of shape ({n},)")
        check_labels(torch.as_tensor(y), classes)

    def _statistics(self, batches: int, truncation: float | None, y: int | None) -> AbstractContextManager[object]:
        if not batches:
            return nullcontext()
        if batches not in self._standing:
            self._standing[batches] = StandingStatistics(self.generator, batches, distribution=self.distribution)
        return self._standing[batches].applied(truncation, y)
