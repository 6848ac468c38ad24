"""How sure a Fréchet distance is: its standard error from one sample, its value at infinitely many images.

The reference is taken as given; what varies is which images the generator happened to draw.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poise import noise

TWO_SIDED_95 = 1.96
POINTS = 15
"""numbers of images at which the distance is taken for the extrapolation, as in Chong & Forsyth"""


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric root of a covariance (d, d), float64."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def distance_from_root(mean: Tensor, covariance: Tensor, real_mean: Tensor, real_root: Tensor) -> float:
    """The Fréchet distance to a reference whose covariance's root is known: one matrix's eigenvalues less."""
    cross = torch.linalg.eigvalsh(real_root @ covariance.double() @ real_root).clamp_min(0).sqrt().sum()
    difference = (mean.double() - real_mean).square().sum()
    return (difference + covariance.double().trace() + real_root.square().sum() - 2 * cross).item()


def frechet_standard_error(features: Tensor, real_mean: Tensor, real_root: Tensor, block: int = 4096) -> float:
    """Standard error of the Fréchet distance of features (n, d) to a reference, by the infinitesimal jackknife.

    The distance's first-order change when the weight of one image grows (its influence function) is, with
    ``T = R(RΣR)^{-½}R`` the optimal map from the generated to the real Gaussian and R the real covariance's root,
    ``2(μ − μ_r)·(x − μ) + (x − μ)ᵀ(I − T)(x − μ)`` less its mean. Its deviation over √n is the standard error
    (Efron 1982, chapter 6): one eigendecomposition instead of one for each bootstrap sample.
    """
    n, dim = features.shape
    mean = features.double().mean(0)
    centred_blocks = [rows.double() - mean for rows in features.split(block)]
    covariance = torch.zeros(dim, dim, dtype=torch.float64)
    for rows in centred_blocks:
        covariance += rows.T @ rows
    values, vectors = torch.linalg.eigh(real_root @ (covariance / (n - 1)) @ real_root)
    floor = values.amax().clamp_min(1e-300) * dim * torch.finfo(torch.float64).eps * 10
    inverse_root = torch.where(values > floor, values.clamp_min(floor).rsqrt(), torch.zeros_like(values))
    half = real_root @ vectors * inverse_root.sqrt()
    influence = []
    for rows in centred_blocks:
        quadratic = rows.square().sum(1) - (rows @ half).square().sum(1)
        influence.append(quadratic + 2 * rows @ (mean - real_mean))
    return torch.cat(influence).std().item() / math.sqrt(n)


def frechet_infinity(
    features: Tensor, real_mean: Tensor, real_root: Tensor, points: int = POINTS, seed: int = 0, smallest: int = 0
) -> tuple[float, float]:
    """The distance at infinitely many images, and its standard error from the fitted line (Chong & Forsyth 2020).

    FID is biased by a term that falls as 1/n. Distances of random parts of the features, evenly spread in size, are
    fitted by a line in 1/n, and read at 0. The parts overlap, so that the line's own error is too small: add to it that
    of the distance of all features.

    Args:
        features: (n, d), at least 20.
        points: parts, at least 3. seed: which.
        smallest: images of the least part; a tenth of all, as in the paper, by default.
    """
    n = len(features)
    smallest = smallest or max(2, n // 10)
    if points < 3 or n < 20 or not 2 <= smallest < n:
        raise ValueError(f"{points} points of {n} images from {smallest} on; needed: 3 points of at least 20 images")
    sizes = torch.linspace(smallest, n, points).round().long().tolist()
    found = []
    for index, size in enumerate(sizes):
        keys = noise.uniform(seed, f"part-{index}", torch.arange(n), 1, torch.float64)[:, 0]
        part = features[keys.argsort()[:size].to(features.device)].double().cpu()
        found.append(distance_from_root(part.mean(0), part.T.cov(), real_mean, real_root))
    x, y = 1 / torch.tensor(sizes, dtype=torch.float64), torch.tensor(found, dtype=torch.float64)
    spread = x - x.mean()
    slope = (spread * y).sum() / spread.square().sum()
    at_infinity = y.mean() - slope * x.mean()
    left = y - at_infinity - slope * x
    variance = left.square().sum() / (points - 2) * (1 / points + x.mean() ** 2 / spread.square().sum())
    return at_infinity.item(), variance.sqrt().item()


def interval(value: float, standard_error: float) -> tuple[float, float]:
    """95%: ``value ± 1.96`` standard errors."""
    reach = TWO_SIDED_95 * standard_error
    return value - reach, value + reach


def bootstrap_interval(values: Tensor, draws: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """95% for the mean of values (n,), by the percentiles of means of n drawn again with replacement (Efron 1979)."""
    n = len(values)
    drawn = noise.integers(seed, "bootstrap", torch.arange(draws), n, n)
    means = values.double().cpu()[drawn].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def modes_interval(counts: Tensor) -> tuple[float, float]:
    """95% for the number of modes that as many samples cover, from 0 to the number of modes.

    With Poisson numbers of samples, a mode of c expected ones is covered with probability ``1 − e^−c``, and the number
    covered varies by ``Σ e^−c (1 − e^−c)``; what was counted stands for what was expected, and modes without a sample
    are taken to have none to give. Modes seen once weigh most: the interval of Good (1953).

    Args:
        counts: samples by mode, (modes,).
    """
    missed = torch.exp(-counts[counts > 0].double())
    low, high = interval(len(missed), (missed * (1 - missed)).sum().sqrt().item())
    return max(0.0, low), min(float(len(counts)), high)


def kl_standard_error(counts: Tensor, data: Tensor) -> float:
    """Standard error of ``mode_kl`` of these counts, to first order: the deviation of log p/q under p, over √n.

    Args:
        counts: samples by mode, (modes,). data: q, the probability of each, (modes,).
    """
    p = counts.double() / counts.sum()
    log_ratio = torch.where(p > 0, (p / data).log(), torch.zeros_like(p))
    mean = (p * log_ratio).sum()
    return ((p * (log_ratio - mean).square()).sum() / counts.sum()).sqrt().item()


def score_interval(score: float, gains: Tensor) -> tuple[float, float]:
    """95% for a class score ``exp(mean gain)``: normal in its logarithm, by the infinitesimal jackknife.

    Args:
        gains: ``KL(p(y|x) ‖ p(y))`` of each image in nats, (n,). To first order the marginal's own error adds nothing.
    """
    reach = TWO_SIDED_95 * gains.double().std().item() / math.sqrt(len(gains))
    return score * math.exp(-reach), score * math.exp(reach)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """95% for a share of n samples: Wilson's score interval (1927), within 0 to 1 also at its ends."""
    z = TWO_SIDED_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)
