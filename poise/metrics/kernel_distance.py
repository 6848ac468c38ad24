"""Kernel inception distance (Bińkowski et al. 2018, arXiv 1801.01401): unbiased squared MMD under a cubic kernel.

Averaged over random subsets, drawn as torch-fidelity draws them, so that equal features give equal figures.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SUBSETS, SUBSET_SIZE, SUBSET_SEED = 100, 1000, 2020
DEGREE = 3
MOST = 10_000
"""features that the standard error is found from at most"""


def kernel_distances(
    generated: Tensor, real: Tensor, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = SUBSET_SEED
) -> Tensor:
    """``MMD²`` of ``subsets`` pairs of subsets, (subsets,), float64; KID is their mean.

    The kernel is ``k(x, y) = (x·y/d + 1)³``.

    Args:
        generated, real: features (n, d), (m, d).
        size: of each subset, at most n and m, at least 2.
        seed: which subsets.

    Raises:
        ValueError: fewer features than ``size``.
    """
    if not 2 <= size <= min(len(generated), len(real)):
        raise ValueError(
            f"size is {size}; a subset has 2 to as many as there are: {len(generated)} generated, {len(real)} real"
        )
    draw = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        x = generated[torch.from_numpy(draw.choice(len(generated), size, replace=False)).to(generated.device)]
        y = real[torch.from_numpy(draw.choice(len(real), size, replace=False)).to(real.device)]
        found.append(squared_mmd(x, y))
    return torch.stack(found)


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased ``MMD²`` between features (m, d) and (m, d) under the cubic kernel, a float64 scalar."""
    m = len(x)
    within = torch.zeros((), dtype=torch.float64)
    for z in (x, y):
        kernel = _kernel(z, z)
        within += (kernel.sum(dtype=torch.float64) - kernel.diagonal().sum(dtype=torch.float64)).cpu() / (m * (m - 1))
    return within - 2 * _kernel(x, y).mean(dtype=torch.float64).cpu()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    inner = (x @ y.T).div_(x.shape[1]).add_(1)
    return inner * inner * inner


def kernel_standard_error(generated: Tensor, real: Tensor, block: int = 1000) -> float:
    """Standard error of ``MMD²`` over generated features, to first order; the real ones are taken as given.

    ``MMD²`` changes with the weight of one image x by ``2 (mean k(x, x') − mean k(x, y))``, less its mean: over √n the
    deviation of that is the standard error (a U-statistic's, Hoeffding 1948). Of at most ``MOST`` features of each, and
    by the 1/n of the variance carried over to all.

    Args:
        generated, real: features (n, d), (m, d); at least 2 generated. block: rows of the kernel held at once.
    """
    x, y = generated[:MOST], real[:MOST]
    influence = []
    for rows in x.split(block):
        to_own = (_kernel(rows, x).sum(1, dtype=torch.float64) - _kernel_with_itself(rows)) / (len(x) - 1)
        influence.append(2 * (to_own - _kernel(rows, y).mean(1, dtype=torch.float64)))
    return torch.cat(influence).std().item() / len(generated) ** 0.5


def _kernel_with_itself(x: Tensor) -> Tensor:
    return (x.square().sum(1, dtype=torch.float64) / x.shape[1] + 1) ** DEGREE
