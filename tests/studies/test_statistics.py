"""Intervals against a bootstrap written out, and the treatment of failed runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from poise.studies import Interval, difference, interval, values
from tests.studies.conftest import outcome

TAILS = {4: 0.00011903, 5: 0.00095410}  # Φ(−√(n / (n − 1)) t₀.₉₇₅), of Student's t with n − 1 degrees of freedom
A, B = [3.0, 1.5, 4.0, 1.0, 5.5], [2.0, 1.75, 1.0, 1.25, 3.0]


def explicit(*sides: list[float]) -> tuple[float, float]:
    """Quantiles of the mean's every resample; of two sides, of the difference of every pair of resamples."""
    means = [[sum(drawn) / len(side) for drawn in itertools.product(side, repeat=len(side))] for side in sides]
    found = means[0] if len(means) == 1 else [x - y for x in means[0] for y in means[1]]
    tail = TAILS[len(sides[0])]
    low, high = np.quantile(found, [tail, 1 - tail])
    return low, high


def test_the_interval_of_few_values_is_that_of_all_their_resamples() -> None:
    found = interval(A)
    assert (found.mean, found.median, found.n) == (3.0, 3.0, 5)
    assert (found.low, found.high) == pytest.approx(explicit(A), abs=1e-5)


def test_intervals_of_five_normal_values_cover_their_mean_nine_times_in_ten() -> None:
    drawn = np.random.default_rng(0).normal(size=(400, 5))
    covered = [found.low <= 0 <= found.high for found in map(interval, drawn.tolist())]
    assert 0.87 < np.mean(covered) < 0.96


def test_many_values_give_about_the_normal_interval() -> None:
    drawn = np.random.default_rng(3).normal(2.0, 3.0, 400)
    found, reach = interval(list(drawn)), 1.9659 * drawn.std(ddof=1) / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx((drawn.mean() - reach, drawn.mean() + reach), abs=0.1 * reach)
    assert found == interval(list(drawn))


def test_a_difference_is_paired_where_the_seeds_are_the_same_in_any_order() -> None:
    a = [outcome("a", seed, modes=value) for seed, value in enumerate(A)]
    b = [outcome("b", seed, modes=value) for seed, value in enumerate(B)]
    found = difference(a, b[::-1], "modes")
    pairs = [x - y for x, y in zip(A, B, strict=True)]
    assert (found.mean, found.median, found.n) == pytest.approx((np.mean(pairs), np.median(pairs), 5))
    assert (found.low, found.high) == pytest.approx(explicit(pairs), abs=1e-5)


def test_other_seeds_are_resampled_each_side_by_itself() -> None:
    a = [outcome("a", seed, modes=value) for seed, value in enumerate(A[:4])]
    b = [outcome("b", 10 + seed, modes=value) for seed, value in enumerate(B[:4])]
    found = difference(a, b, "modes")
    assert (found.mean, found.n) == pytest.approx((np.mean(A[:4]) - np.mean(B[:4]), 4))
    assert (found.low, found.high) == pytest.approx(explicit(A[:4], B[:4]), abs=0.1)  # drawn, not all 4⁴ × 4⁴
    assert difference(b, a, "modes").mean == -found.mean


@pytest.mark.parametrize("n", [1, 2])
def test_one_seed_or_two_decide_nothing(n: int) -> None:
    a, b = ([outcome(arm, seed, modes=value) for seed in range(n)] for arm, value in (("a", 900), ("b", 1)))
    found = difference(a, b, "modes")
    assert (found.mean, found.low, found.high) == (899, -math.inf, math.inf)
    assert not found.is_positive
    assert not found.is_negative
    assert str(found) == f"899, n = {n}"


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 2, 1), (-2, -0.1, -1), (-0.1, 2, 0), (0, 2, 0)])
def test_the_sign_is_that_of_the_whole_interval(low: float, high: float, sign: int) -> None:
    found = Interval(1, 1, low, high, 5)
    assert found.is_positive - found.is_negative == sign


def test_failed_runs_count_as_the_worst_and_are_never_dropped() -> None:
    runs = [outcome("a", 0, modes=800), outcome("a", 1, "failed"), outcome("a", 2, modes=math.nan)]
    assert values(runs, "modes", worst=0) == [800, 0, 0]
    with pytest.raises(ValueError, match=r"a, seed 1, failed .* give worst"):
        values(runs, "modes")
    with pytest.raises(ValueError, match="a, seed 0, has no figure 'fd'; it has modes"):
        values(runs[:1], "fd", worst=0)


@pytest.mark.parametrize("given", [[], [1.0, math.inf], [math.nan]])
def test_an_interval_needs_finite_values(given: list[float]) -> None:
    with pytest.raises(ValueError, match="one or more, all finite"):
        interval(given)
