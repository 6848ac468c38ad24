"""Intervals: standard errors are what fresh draws vary by; the extrapolation takes the bias away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from poise.metrics.uncertainty import (
    distance_from_root,
    frechet_infinity,
    frechet_standard_error,
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
