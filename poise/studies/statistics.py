"""What few seeds can say: bootstrap intervals of a mean, and of a difference, paired where the seeds are the same.

Percentile intervals (Efron & Tibshirani 1993, ch. 13), expanded for few values (Hesterberg 2015, The American
Statistician 69, "expanded percentile interval"): resamples of n vary too little, by √((n − 1)/n), and have the normal's
tails for Student's. What is left of it is in ``docs/studies.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poise.studies.trial import Outcome

RESAMPLES = 10_000
"""drawn where there are more than that of all (n ≥ 6); else every resample is taken"""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and median of n values with a 95% interval of the mean, unbounded for n < 3."""

    mean: float
    median: float
    low: float
    high: float
    n: int

    @property
    def is_positive(self) -> bool:
        """Whether all of it lies above 0."""
        return self.low > 0

    @property
    def is_negative(self) -> bool:
        """Whether all of it lies below 0."""
        return self.high < 0

    def __str__(self) -> str:
        reach = f" [{self.low:.4g}, {self.high:.4g}]" if math.isfinite(self.low) else ""
        return f"{self.mean:.4g}{reach}, n = {self.n}"


def interval(values: Sequence[float]) -> Interval:
    """The mean of values with its bootstrap 95% interval. Raises ValueError for none, or one that is not finite."""
    found = _checked(values)
    return _interval(found.mean(), np.median(found), _resampled_means(found), len(found))


def difference(a: Sequence[Outcome], b: Sequence[Outcome], figure: str, worst: float | None = None) -> Interval:
    """The mean of ``a − b`` with its bootstrap 95% interval.

    Where both have the same seeds, pairs are resampled, and the median is that of the pairs' differences; else each
    side is resampled by itself, and n is the smaller number.

    Args:
        figure: its name. worst: as in ``values``.
    """
    left, right = _checked(values(a, figure, worst)), _checked(values(b, figure, worst))
    seeds, others = [one.trial.seed for one in a], [one.trial.seed for one in b]
    if sorted(seeds) == sorted(others) and len(set(seeds)) == len(seeds):
        pairs = left[np.argsort(seeds)] - right[np.argsort(others)]
        return _interval(pairs.mean(), np.median(pairs), _resampled_means(pairs), len(pairs))
    drawing = np.random.default_rng(1)
    drawn = drawing.choice(_resampled_means(left), RESAMPLES) - drawing.choice(_resampled_means(right), RESAMPLES)
    median = np.median(left) - np.median(right)
    return _interval(left.mean() - right.mean(), median, drawn, min(len(left), len(right)))


def values(outcomes: Sequence[Outcome], figure: str, worst: float | None = None) -> list[float]:
    """A figure of each outcome.

    Args:
        figure: its name.
        worst: finite, stands for a run that failed, or whose figure is not finite: 0 of 1000 modes, say. Such runs are
            never dropped.

    Raises:
        ValueError: one failed and there is no ``worst``; or one has no such figure.
    """
    found = []
    for one in outcomes:
        value = one.figures.get(figure)
        run = f"{one.trial.arm}, seed {one.trial.seed},"
        if value is None and one.status == "finished":
            raise ValueError(f"{run} has no figure {figure!r}; it has {', '.join(one.figures) or 'none'}")
        if one.status != "finished" or value is None or not math.isfinite(value):
            if worst is None:
                raise ValueError(f"{run} {one.status} with {figure} = {value}; give worst, the figure it counts as")
            value = worst
        found.append(float(value))
    return found


def _checked(values: Sequence[float]) -> Values:
    found = np.asarray(values, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        raise ValueError(f"values are {list(values)}; an interval needs one or more, all finite")
    return found


def _resampled_means(found: Values) -> Values:
    """Means of resamples of n values out of n: of all nⁿ where they are few, else of drawn ones, always the same."""
    n = len(found)
    if n**n <= RESAMPLES:
        drawn = np.indices((n,) * n).reshape(n, -1).T
    else:
        drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    return found[drawn].mean(axis=1)


def _interval(mean: float, median: float, resampled: Values, n: int) -> Interval:
    if n < 3:  # resamples of two are the two and their mean: no 95% in that
        return Interval(float(mean), float(median), -math.inf, math.inf, n)
    tail = 100 * _tail(n)
    low, high = np.percentile(resampled, (tail, 100 - tail))
    return Interval(float(mean), float(median), float(low), float(high), n)


def _tail(n: int) -> float:
    """What the expanded interval leaves out at each end; 2.5% for large n."""
    from scipy.stats import norm, t

    return float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)))
