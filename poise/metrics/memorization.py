"""Memorization: which training images a generated image lies nearest to, and whether that is nearer than chance.

Two shares are found. *Duplicates* are generated images whose nearest training image is as near as only the nearest 1%
of training images are to each other: the lower tail, at one quantile, of the distances that Meehan et al. 2020 (arXiv
2004.05675) compare. New images of the training distribution give 1%, copies 100%. *Authenticity* (Alaa et al. 2022,
arXiv 2102.08921) is the share of generated images that are further from their nearest training image than that one is
from its own nearest other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 1024
QUANTILE = 0.01
K = 5
"""neighbours looked up, and shown"""
TRIED = 10_000
"""training images whose own nearest others the threshold is taken from, at most"""
ROUNDING = 1e-4
"""of the training images' median distance: what is nearer is equal, whatever else the features' last bits say"""


@dataclass(frozen=True)
class Nearest:
    """The nearest training images of each generated one.

    Attributes:
        indices: int64 (n, k), distances: (n, k), in feature units, nearest first.
        threshold: what a duplicate's distance is at most.
        expected: share of training images at most that far from another: what new images of the same distribution give.
        own: (n,), distance of each one's nearest training image to its own nearest other.
        n_real, tried: training images searched, and those that the threshold rests on.
    """

    indices: Tensor
    distances: Tensor
    threshold: float
    expected: float
    own: Tensor
    n_real: int
    tried: int

    @property
    def duplicate(self) -> Tensor:
        """Whether each generated image is a duplicate, bool (n,)."""
        return self.distances[:, 0] <= self.threshold

    @property
    def authentic(self) -> Tensor:
        """Whether each generated image is further from its nearest than that one from its own nearest, bool (n,)."""
        return self.distances[:, 0] > self.own


def nearest_training_images(generated: Tensor, real: Tensor, k: int = K, tile: int = TILE) -> Nearest:
    """Look up the nearest training images of each generated one; tiled, no full matrix of distances is in memory.

    Args:
        generated, real: features (n, d), (m, d) on one device, in random order; m at least 2.
        k: neighbours, m − 1 at most.
        tile: rows and columns of distances at once.

    Raises:
        ValueError: fewer than 2 training images, or features of different widths.
    """
    m = len(real)
    if m < 2 or not 1 <= k < m:
        raise ValueError(f"k is {k}, of {m} training images; needed: at least 2 images, and k from 1 to {m - 1}")
    if generated.shape[1:] != real.shape[1:]:
        raise ValueError(
            f"features have {generated.shape[1]} and {real.shape[1]} dimensions; they must be of one extractor"
        )
    centre = real.mean(0)
    generated, real = generated - centre, real - centre  # what is common to all cancels badly
    indices, distances = neighbours(generated, real, k, tile)
    tried = torch.arange(min(m, TRIED), device=real.device)
    among = neighbours(real[tried], real, 1, tile, tried)[1][:, 0]
    met, places = indices[:, 0].unique(return_inverse=True)
    own = neighbours(real[met], real, 1, tile, met)[1][places, 0]
    rank = max(1, round(QUANTILE * len(among)))
    threshold = torch.maximum(among.kthvalue(rank).values, ROUNDING * among.median())
    expected = (among <= threshold).double().mean().item()
    return Nearest(indices.cpu(), distances.cpu(), threshold.item(), expected, own.cpu(), m, len(tried))


def neighbours(
    queries: Tensor, among: Tensor, k: int, tile: int = TILE, itself: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest of ``among``, (m, d), to each query, (n, d): their numbers and distances, (n, k), nearest first.

    Args:
        itself: int64 (n,), of each query the one of ``among`` that does not count.
    """
    norms = among.square().sum(1)
    indices, distances = [], []
    for rows, start in _tiles(queries, tile):
        best = torch.full((len(rows), k), torch.inf, dtype=rows.dtype, device=rows.device)
        which = torch.zeros(len(rows), k, dtype=torch.int64, device=rows.device)
        for columns, first in _tiles(among, tile):
            d = torch.addmm(norms[first : first + len(columns)], rows, columns.T, alpha=-2)  # less the query's own norm
            numbers = torch.arange(first, first + len(columns), device=rows.device)
            if itself is not None:
                d.masked_fill_(itself[start : start + len(rows), None] == numbers, torch.inf)
            best_here, place = d.topk(min(k, d.shape[1]), 1, largest=False)
            best, chosen = torch.cat([best, best_here], 1).topk(k, 1, largest=False)
            which = torch.cat([which, numbers[place]], 1).gather(1, chosen)
        # By differences: those of norms and products are off by rounding, and copies are not at 0 by them.
        exact, order = (rows[:, None] - among[which]).norm(dim=2).sort(1)
        indices.append(which.gather(1, order))
        distances.append(exact)
    return torch.cat(indices), torch.cat(distances)


def _tiles(features: Tensor, tile: int) -> Iterator[tuple[Tensor, int]]:
    for first in range(0, len(features), tile):
        yield features[first : first + tile], first
