"""What a generator is given: latents from a named distribution, and class labels.

All are pure functions of (seed, stream, number of the sample): sample i is the same whatever the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from poise import noise
from poise.registry import Builders

Latent = Callable[[int, str, Tensor, int], Tensor]
"""(seed, stream, positions int64 (n,), width) ↦ float32 (n, width), on the CPU"""


def normal() -> Latent:
    """N(0, I), what every GAN here is trained on unless it says otherwise."""
    return noise.normal


def truncated_normal(threshold: float = 1.0) -> Latent:
    """N(0, I), what lies beyond ±threshold drawn again (Brock et al. 2019, section 3.1)."""
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; latents are truncated at some number of σ above 0")
    return partial(noise.truncated_normal, threshold=threshold)


def uniform(low: float = -1.0, high: float = 1.0) -> Latent:
    """U(low, high) for each coordinate (Radford et al. 2016)."""
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low is {low} and high is {high}; give two finite numbers, the lower one first")
    return partial(_uniform, low=low, high=high)


def bernoulli(probability: float = 0.5) -> Latent:
    """1 with this probability, else 0 (Brock et al. 2019, appendix E: {0, 1})."""
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}; it must be above 0 and below 1")
    return partial(_bernoulli, probability=probability)


def censored_normal() -> Latent:
    """max(N(0, I), 0) (Brock et al. 2019, appendix E)."""
    return _censored


LATENTS: Builders[Latent] = Builders(
    "latent",
    {
        "normal": normal,
        "truncated-normal": truncated_normal,
        "uniform": uniform,
        "bernoulli": bernoulli,
        "censored-normal": censored_normal,
    },
)


def _uniform(seed: int, stream: str, positions: Tensor, width: int, low: float, high: float) -> Tensor:
    return noise.uniform(seed, stream, positions, width).mul_(high - low).add_(low)


def _bernoulli(seed: int, stream: str, positions: Tensor, width: int, probability: float) -> Tensor:
    return (noise.uniform(seed, stream, positions, width, torch.float64) < probability).float()


def _censored(seed: int, stream: str, positions: Tensor, width: int) -> Tensor:
    return noise.normal(seed, stream, positions, width).clamp_min_(0)


def truncated(distribution: Latent, threshold: float | None) -> Latent:
    """``distribution``, or with a threshold the truncated normal.

    Raises:
        ValueError: a threshold of 0 or below, or one for latents that are not normal.
    """
    if threshold is None:
        return distribution
    if distribution is not noise.normal:
        raise ValueError(f"truncation is {threshold}, but these latents are not normal; leave it out")
    return truncated_normal(threshold)


def latents(
    generator: nn.Module,
    seed: int,
    start: int,
    size: int,
    stream: str = "latent",
    distribution: Latent = noise.normal,
) -> Tensor:
    """Latents number ``start`` to ``start + size``, standard normal by default: float32 (size, latent_dim), on the CPU.

    Args:
        generator: whose ``latent_dim`` is the width. seed: which latents. stream: what they are for.
        distribution: of ``LATENTS``.
    """
    return distribution(seed, stream, torch.arange(start, start + size), int(generator.latent_dim))  # type: ignore[arg-type]


def labels(
    generator: nn.Module, seed: int, start: int, size: int, given: int | Tensor | None = None, stream: str = "label"
) -> Tensor | None:
    """Class labels number ``start`` to ``start + size``: int64 (size,), on the CPU; None where there are no classes.

    Args:
        generator: whose ``num_classes`` there are. seed: which labels. stream: what they are for.
        given: None for labels drawn uniformly; a class for every sample; or labels (k,) used in turn, the one of
            sample i being i mod k.

    Raises:
        ValueError: a label that the generator does not have, or labels for one without classes.
    """
    classes = int(generator.num_classes)  # type: ignore[arg-type]
    if not classes:
        if given is not None:
            raise ValueError("this generator has no classes; leave y out")
        return None
    positions = torch.arange(start, start + size)
    if given is None:
        return noise.integers(seed, stream, positions, 1, classes)[:, 0]
    turn = torch.as_tensor(given).cpu().reshape(-1)
    check_labels(turn, classes)
    return turn.to(torch.int64)[positions % len(turn)]


def check_labels(y: Tensor, classes: int) -> None:
    """Raise ValueError for labels that are not integers of 0 to ``classes`` − 1, or for none at all."""
    if y.is_floating_point() or y.is_complex() or not y.numel():
        raise ValueError(f"labels are {y.dtype} of shape {tuple(y.shape)}; give at least one, as integers")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        near = min(max(wrong, 0), classes - 1)
        raise ValueError(f"a label is {wrong}; this generator has labels 0 to {classes - 1}: nearest {near}")
