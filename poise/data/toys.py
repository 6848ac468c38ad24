"""Mixtures of Gaussians in the plane, the usual first test of mode collapse: a ring of them and a grid.

A ring of 8 and a grid of 25 are those of Metz et al. 2017 (arXiv 1611.02163) and of Srivastava et al. 2017 (VEEGAN,
arXiv 1705.07761). As data they are ``Points``: what others have as images are points here, (n, 2), float32, in units of
the plane; ``resolution`` is 0. ``poise.metrics.coverage`` judges them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from poise import noise


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one width and equal weight.

    Attributes:
        centres: float (modes, 2). std: standard deviation of each coordinate about its centre.
    """

    centres: Tensor
    std: float

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` points, (n, 2), on the centres' device."""
        device = self.centres.device
        modes = torch.randint(len(self.centres), (n,), generator=generator, device=device)
        return self.centres[modes] + self.std * torch.randn(n, 2, generator=generator, device=device)


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.02) -> Mixture:
    """``modes`` Gaussians at equal angles on a circle about the origin, the first at (radius, 0).

    Raises ValueError for modes below 1, or a radius or std that is not above 0.
    """
    _at_least_one(modes=modes)
    _above_zero(radius=radius, std=std)
    angle = torch.arange(modes) * (2 * math.pi / modes)
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], 1), std)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> Mixture:
    """``side``² Gaussians on a square grid about the origin, row by row.

    Raises ValueError for a side below 1, or a spacing or std that is not above 0.
    """
    _at_least_one(side=side)
    _above_zero(spacing=spacing, std=std)
    ticks = spacing * (torch.arange(side) - (side - 1) / 2)
    return Mixture(torch.cartesian_prod(ticks, ticks), std)


class Points:
    """Points of a mixture as data; the label of a point is its mode. Point i is a pure function of (seed, i).

    Args:
        mixture: what they are drawn from. seed: which of all series.
        stream: name of the series; different names are independent.
    """

    resolution = 0

    def __init__(self, mixture: Mixture, seed: int = 0, stream: str = "points") -> None:
        self.mixture, self.stream = mixture, stream
        self.num_classes = len(mixture.centres)
        self._modes = noise.Ahead(partial(noise.integers, high=self.num_classes), seed, f"{stream}-mode", 1)
        self._around = noise.Ahead(noise.normal, seed, stream, 2)

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Points number ``start`` to ``start + size``: float32 (size, 2) and int64 labels (size,)."""
        modes = self._modes(start, size)[:, 0]
        return self.mixture.centres[modes] + self.mixture.std * self._around(start, size), modes


def ring2d(modes: int = 8, radius: float = 2.0, std: float = 0.02, seed: int = 0) -> Points:
    """Gaussians on a ring in the plane, without end; points for the model mlp (Metz et al. 2017)."""
    return Points(ring(modes, radius, std), seed, "ring2d")


def grid2d(side: int = 5, spacing: float = 2.0, std: float = 0.05, seed: int = 0) -> Points:
    """Gaussians on a square grid in the plane, without end; points for the model mlp (Srivastava et al. 2017)."""
    return Points(grid(side, spacing, std), seed, "grid2d")


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")


def _above_zero(**sizes: float) -> None:
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} is {size}; it must be above 0")
