"""The Fréchet distance against scipy's matrix square root and closed forms; its statistics against numpy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from poise.metrics import GaussianStatistics, frechet_distance

Gaussian = tuple[Tensor, Tensor]


def gaussian(dim: int, rank: int, seed: int) -> Gaussian:
    """A random mean, and a random covariance of that rank."""
    noise = np.random.default_rng(seed)
    factor = noise.normal(size=(dim, rank))
    return torch.tensor(noise.normal(size=dim)), torch.tensor(factor @ factor.T)


def by_matrix_root(a: Gaussian, b: Gaussian) -> float:
    root = scipy.linalg.sqrtm(a[1].numpy() @ b[1].numpy()).real
    return float(((a[0] - b[0]) ** 2).sum() + a[1].trace() + b[1].trace() - 2 * np.trace(root))


dims, seeds = st.integers(1, 8), st.integers(0, 2**32 - 2)


@given(dims, seeds)
def test_is_the_published_formula(dim: int, seed: int) -> None:
    a, b = gaussian(dim, 2 * dim, seed), gaussian(dim, 2 * dim, seed + 1)
    assert frechet_distance(*a, *b) == pytest.approx(by_matrix_root(a, b), rel=1e-6, abs=1e-6)


@given(dims, dims, seeds)
def test_is_symmetric_and_never_below_zero(dim: int, rank: int, seed: int) -> None:
    a, b = gaussian(dim, rank, seed), gaussian(dim, dim, seed + 1)
    forth, back = frechet_distance(*a, *b), frechet_distance(*b, *a)
    assert forth == pytest.approx(back, rel=1e-6, abs=1e-5)
    assert forth > -1e-5


@given(dims, dims, seeds)
def test_is_zero_from_a_gaussian_to_itself(dim: int, rank: int, seed: int) -> None:
    a = gaussian(dim, rank, seed)
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-5)


@given(st.integers(2, 8), seeds)
def test_of_rank_one_covariances_has_a_closed_form(dim: int, seed: int) -> None:
    a, b = torch.tensor(np.random.default_rng(seed).normal(size=(2, dim)))
    zero = torch.zeros(dim, dtype=torch.float64)
    expected = a @ a + b @ b - 2 * (a @ b).abs()
    assert frechet_distance(zero, torch.outer(a, a), zero, torch.outer(b, b)) == pytest.approx(
        expected.item(), rel=1e-6, abs=1e-5
    )


@given(dims, seeds)
def test_of_diagonal_covariances_has_a_closed_form(dim: int, seed: int) -> None:
    mean_a, mean_b, std_a, std_b = torch.tensor(np.random.default_rng(seed).normal(size=(4, dim))).abs()
    expected = ((mean_a - mean_b) ** 2 + (std_a - std_b) ** 2).sum().item()
    distance = frechet_distance(mean_a, (std_a**2).diag(), mean_b, (std_b**2).diag())
    assert distance == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_of_a_constant_is_the_distance_of_the_means_and_the_others_variance() -> None:
    mean, covariance = gaussian(5, 5, 0)
    constant = torch.zeros(5), torch.zeros(5, 5)
    expected = mean.square().sum() + covariance.trace()
    assert frechet_distance(mean, covariance, *constant) == pytest.approx(expected.item())


@given(st.lists(st.integers(0, 30), max_size=5), seeds)
def test_statistics_are_numpys_however_batched(cuts: list[int], seed: int) -> None:
    features = np.random.default_rng(seed).normal(3, 2, size=(30, 4))
    statistics = GaussianStatistics(4)
    for first, end in itertools.pairwise([0, *sorted(cuts), 30]):
        statistics.add(torch.tensor(features[first:end]))
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features.T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1])
def test_a_covariance_needs_two_features(n: int) -> None:
    statistics = GaussianStatistics(3)
    statistics.add(torch.ones(n, 3))
    with pytest.raises(ValueError, match=f"{n} features .* at least 2"):
        _ = statistics.covariance
