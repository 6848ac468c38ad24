"""Intervals: standard errors are what fresh draws vary by; the extrapolation takes the bias away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from poise.metrics.classes import ClassScore, mode_kl, modes_covered
from poise.metrics.uncertainty import (
    distance_from_root,
    frechet_infinity,
    frechet_standard_error,
    kl_standard_error,
    modes_interval,
    score_interval,
    share_interval,
    square_root,
)

DIM = 8
REAL_MEAN = torch.zeros(DIM, dtype=torch.float64)
REAL_ROOT = square_root(torch.eye(DIM))
STD = torch.linspace(0.5, 2, DIM, dtype=torch.float64)
TRUE = (0.3**2 * DIM + (STD - 1).square().sum()).item()  # of diagonal Gaussians, in closed form


def drawn(n: int, seed: int) -> Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * STD + 0.3


def distance(features: Tensor) -> float:
    return distance_from_root(features.mean(0), features.T.cov(), REAL_MEAN, REAL_ROOT)


def test_the_standard_error_is_what_fresh_draws_vary_by() -> None:
    spread = np.std([distance(drawn(400, seed)) for seed in range(200)])
    errors = [frechet_standard_error(drawn(400, seed), REAL_MEAN, REAL_ROOT, block=150) for seed in range(10)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


def test_the_standard_error_of_a_singular_covariance_is_finite() -> None:
    error = frechet_standard_error(drawn(5, 0), REAL_MEAN, REAL_ROOT)
    assert np.isfinite(error)
    assert error > 0


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    plain, extrapolated = [], []
    for seed in range(150):
        features = drawn(100, seed)
        plain.append(distance(features) - TRUE)
        extrapolated.append(frechet_infinity(features, REAL_MEAN, REAL_ROOT, seed=seed)[0] - TRUE)
    assert np.mean(plain) > 2 * abs(np.mean(extrapolated))


def test_extrapolation_is_the_same_every_time() -> None:
    first, second = (frechet_infinity(drawn(100, 0), REAL_MEAN, REAL_ROOT) for _ in range(2))
    assert first == second


def test_too_few_images_cannot_be_extrapolated() -> None:
    with pytest.raises(ValueError, match="needed: 3 points of at least 20 images"):
        frechet_infinity(drawn(19, 0), REAL_MEAN, REAL_ROOT)


@pytest.mark.parametrize(("share", "n", "expected"), [(0.5, 100, (0.4038, 0.5962)), (0, 10, (0, 0.2775))])
def test_a_shares_interval_is_wilsons(share: float, n: int, expected: tuple[float, float]) -> None:
    assert share_interval(share, n) == pytest.approx(expected, abs=2e-4)


Q = torch.full((60,), 1 / 60, dtype=torch.float64)
P = torch.linspace(0.1, 2, 60, dtype=torch.float64).softmax(0)


def mode_counts(n: int, seed: int) -> Tensor:
    drawn = torch.multinomial(P, n, replacement=True, generator=torch.Generator().manual_seed(seed))
    return torch.bincount(drawn, minlength=len(P))


def reaches(intervals: list[tuple[float, float]]) -> float:
    """The mean standard error that intervals say."""
    return float(np.mean([(high - low) / (2 * 1.96) for low, high in intervals]))


def test_the_interval_of_modes_is_what_fresh_draws_vary_by() -> None:
    draws = [mode_counts(120, seed) for seed in range(300)]
    spread = np.std([modes_covered(counts) for counts in draws])
    assert reaches([modes_interval(counts) for counts in draws]) == pytest.approx(spread, rel=0.25)


def test_modes_seen_often_are_certain_and_none_is_beyond_all() -> None:
    assert modes_interval(torch.full((8,), 1000)) == (8, 8)
    assert modes_interval(torch.tensor([0, 0])) == (0, 0)
    low, high = modes_interval(torch.ones(4))
    assert 0 < low < 4
    assert high == 4


def test_the_standard_error_of_kl_is_what_fresh_draws_vary_by() -> None:
    draws = [mode_counts(3000, seed) for seed in range(300)]
    spread = np.std([mode_kl(counts, Q) for counts in draws])
    assert np.mean([kl_standard_error(counts, Q) for counts in draws]) == pytest.approx(spread, rel=0.15)
    assert kl_standard_error(torch.tensor([5, 0]), torch.tensor([0.5, 0.5])) == 0


def test_the_interval_of_a_class_score_is_what_fresh_draws_vary_by() -> None:
    def one(seed: int) -> tuple[float, tuple[float, float]]:
        random = torch.Generator().manual_seed(seed)
        p = (3 * torch.randn(500, 5, generator=random, dtype=torch.float64)).softmax(1)
        score = ClassScore(5)
        score.add(p)
        return score.value, score_interval(score.value, (p * (p / score.marginal).log()).sum(1))

    found = [one(seed) for seed in range(200)]
    assert reaches([interval for _, interval in found]) == pytest.approx(
        np.std([value for value, _ in found]), rel=0.15
    )
