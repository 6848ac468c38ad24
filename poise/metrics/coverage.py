"""How well points in the plane cover a mixture of Gaussians: Srivastava et al. 2017 (VEEGAN, arXiv 1705.07761).

A point is good within 3 standard deviations of its nearest centre, and a mode is covered if a good point lies at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poise.data.toys import Mixture
from poise.metrics.uncertainty import modes_interval, share_interval


@dataclass(frozen=True)
class Coverage:
    """What points cover.

    Attributes:
        counts: good points at each centre, int64 (centres,).
        good: the share of good points, from 0 to 1.
    """

    counts: Tensor
    good: float

    @property
    def modes(self) -> int:
        """How many centres are covered."""
        return int((self.counts > 0).sum())

    @property
    def of(self) -> int:
        """How many centres there are."""
        return len(self.counts)


def covered(points: Tensor, mixture: Mixture) -> Coverage:
    """How many modes the points (n, 2) cover, and the share of points that are good (Srivastava et al. 2017).

    Of the mixture itself 1 − exp(−9/2) = 98.9% are good. Raises ValueError for points of another shape, or none.
    """
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points have shape {tuple(points.shape)}; give (n, 2) with n at least 1")
    distance, nearest = torch.cdist(points.double(), mixture.centres.double()).min(1)
    good = distance <= 3 * mixture.std
    counts = torch.bincount(nearest[good], minlength=len(mixture.centres))
    return Coverage(counts, float(good.float().mean()))


class Measured(NamedTuple):
    """Figures by name, and their 95% intervals over drawn samples."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def judge_points(points: Tensor, mixture: Mixture) -> Measured:
    """``covered`` as measures: modes, and good, the share of good points."""
    found = covered(points, mixture)
    return Measured(
        {"modes": found.modes, "good": found.good},
        {"modes": modes_interval(found.counts), "good": share_interval(found.good, len(points))},
    )
