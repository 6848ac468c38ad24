"""Mixtures of Gaussians in the plane, the usual first test of mode collapse: a ring of them and a grid.

A ring of 8 and a grid of 25 are those of Metz et al. 2017 (arXiv 1611.02163) and of Srivastava et al. 2017 (VEEGAN,
arXiv 1705.07761). ``covered`` is the latter's measure: a point is good within 3 standard deviations of its nearest
centre, and a mode is covered if a good point lies at it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from poise.models.network import positive

MODES = {"ring": 8, "grid": 25}
"""modes of each toy as it is by default"""


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


@dataclass(frozen=True)
class Coverage:
    """Attributes: modes, how many are covered, of ``of``; good, the share of good points, from 0 to 1."""

    modes: int
    of: int
    good: float


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.02) -> Mixture:
    """``modes`` Gaussians at equal angles on a circle about the origin, the first at (radius, 0).

    Raises ValueError for modes below 1, or a radius or std that is not above 0.
    """
    positive(modes=modes)
    _above_zero(radius=radius, std=std)
    angle = torch.arange(modes) * (2 * math.pi / modes)
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], 1), std)


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> Mixture:
    """``side``² Gaussians on a square grid about the origin, row by row.

    Raises ValueError for a side below 1, or a spacing or std that is not above 0.
    """
    positive(side=side)
    _above_zero(spacing=spacing, std=std)
    ticks = spacing * (torch.arange(side) - (side - 1) / 2)
    return Mixture(torch.cartesian_prod(ticks, ticks), std)


def covered(points: Tensor, mixture: Mixture) -> Coverage:
    """How many modes the points (n, 2) cover, and the share of points that are good (Srivastava et al. 2017).

    Raises ValueError for points of another shape, or none.
    """
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points have shape {tuple(points.shape)}; give (n, 2) with n at least 1")
    distance, nearest = torch.cdist(points.double(), mixture.centres.double()).min(1)
    good = distance <= 3 * mixture.std
    return Coverage(len(nearest[good].unique()), len(mixture.centres), float(good.float().mean()))


def _above_zero(**sizes: float) -> None:
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} is {size}; it must be above 0")
