"""How well points in the plane cover a mixture of Gaussians: Srivastava et al. 2017 (VEEGAN, arXiv 1705.07761).

A point is good within 3 standard deviations of its nearest centre, and a mode is covered if a good point lies at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poise.data.toys import Mixture


@dataclass(frozen=True)
class Coverage:
    """Attributes: modes, how many are covered, of ``of``; good, the share of good points, from 0 to 1."""

    modes: int
    of: int
    good: float


def covered(points: Tensor, mixture: Mixture) -> Coverage:
    """How many modes the points (n, 2) cover, and the share of points that are good (Srivastava et al. 2017).

    Of the mixture itself 1 − exp(−9/2) = 98.9% are good. Raises ValueError for points of another shape, or none.
    """
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points have shape {tuple(points.shape)}; give (n, 2) with n at least 1")
    distance, nearest = torch.cdist(points.double(), mixture.centres.double()).min(1)
    good = distance <= 3 * mixture.std
    return Coverage(len(nearest[good].unique()), len(mixture.centres), float(good.float().mean()))


def judge_points(points: Tensor, mixture: Mixture) -> dict[str, float]:
    """``covered`` as measures: modes, and good, the share of good points."""
    found = covered(points, mixture)
    return {"modes": found.modes, "good": found.good}
