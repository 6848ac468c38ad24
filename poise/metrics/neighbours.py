"""Precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020).

All ask which samples lie within the balls around the others that reach to their k-th nearest neighbour. Distances come
in tiles by matrix products, and no full matrix is ever in memory: a tile's part in each question is answered at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 1024
GROUP = 16
"""columns whose smallest is looked at before the columns themselves"""


@dataclass(frozen=True)
class NeighbourScores:
    """Figures of one pair of feature sets.

    Attributes:
        precision: share of generated samples within a ball of real ones, 0–1. recall: the other way around.
        density: real balls around a generated sample, over k; 1 is expected of real ones.
        coverage: share of real samples with a generated one in their ball.
        n_generated, n_real, k: of how many, and the number of the neighbour that a ball reaches to.
        inside: of each generated sample, whether it is within a real ball; ``reached``: of each real one, whether
            within a generated ball; ``around``: real balls around each generated sample; ``covered``: of each real one.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    n_generated: int
    n_real: int
    k: int
    inside: Tensor
    reached: Tensor
    around: Tensor
    covered: Tensor


def squared_radii(features: Tensor, k: int, tile: int = TILE) -> Tensor:
    """Squared distance of each feature to its k-th nearest other, (n,). Each pair of tiles is multiplied once.

    Args:
        features: (n, d), n above k. Float32 features are best centred first: what is common to all cancels badly.
    """
    n = len(features)
    if not 1 <= k < n:
        raise ValueError(f"k is {k}; of {n} features it may be 1 to {n - 1}")
    norms = features.square().sum(1)
    best = torch.full((n, k), torch.inf, dtype=features.dtype, device=features.device)
    for first, rows in _tiles(features, tile):
        for second, columns in _tiles(features, tile):
            if second < first:
                continue
            d = torch.addmm(norms[second : second + len(columns)], rows, columns.T, alpha=-2)
            d += norms[first : first + len(rows), None]
            if first == second:
                d.fill_diagonal_(torch.inf)
            else:
                _keep_smallest(best, second, _least_of_columns(d, k))
            _keep_smallest(best, first, _least_of_rows(d, k))
    return best.amax(1).clamp_min_(0)


def neighbour_scores(
    generated: Tensor, real: Tensor, k: int = 3, strict: bool = False, tile: int = TILE
) -> NeighbourScores:
    """Precision, recall, density and coverage.

    Args:
        generated, real: features (n, d), (m, d), float32 or float64 on one device; n and m above k.
        k: the neighbour a ball reaches to. Kynkäänniemi et al. take 3 and closed balls, Naeem et al. 5 and open ones.
        strict: open balls: what lies on their border is outside.
        tile: rows and columns of distances at once.

    Raises:
        ValueError: k out of range, or features of different widths.
    """
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"features have {generated.shape[1]} and {real.shape[1]} dimensions; they must be of one extractor"
        )
    centre = real.mean(0)
    generated, real = generated - centre, real - centre
    radius_g, radius_r = squared_radii(generated, k, tile), squared_radii(real, k, tile)
    norm_g, norm_r = generated.square().sum(1), real.square().sum(1)
    around = torch.zeros(len(generated), dtype=torch.int64, device=real.device)
    reached = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    below = torch.lt if strict else torch.le
    for first, rows in _tiles(real, tile):
        of_rows = slice(first, first + len(rows))
        for second, columns in _tiles(generated, tile):
            of_columns = slice(second, second + len(columns))
            d = torch.addmm(norm_g[of_columns], rows, columns.T, alpha=-2)
            d += norm_r[of_rows, None]
            within = below(d, radius_r[of_rows, None])
            around[of_columns] += within.view(torch.uint8).sum(0, dtype=torch.int32)  # bool is summed slowly
            covered[of_rows] |= within.any(1)
            reached[of_rows] |= below(d, radius_g[of_columns]).any(1)
    inside = around > 0
    return NeighbourScores(
        precision=inside.double().mean().item(),
        recall=reached.double().mean().item(),
        density=around.double().mean().item() / k,
        coverage=covered.double().mean().item(),
        n_generated=len(generated),
        n_real=len(real),
        k=k,
        inside=inside.cpu(),
        reached=reached.cpu(),
        around=around.cpu(),
        covered=covered.cpu(),
    )


def _tiles(features: Tensor, tile: int) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(features), tile):
        yield first, features[first : first + tile]


def _keep_smallest(best: Tensor, first: int, found: Tensor) -> None:
    """Put the k smallest of each row of what was found among the k of rows ``first`` on of ``best``."""
    rows = slice(first, first + len(found))
    best[rows] = torch.cat([best[rows], found], 1).topk(best.shape[1], 1, largest=False, sorted=False).values


def _least_of_rows(d: Tensor, k: int) -> Tensor:
    """Of each row of d some values with its k smallest among them: (rows, at least k).

    The k smallest lie in the k groups of columns whose own smallest are least: all others are left out.
    """
    width = d.shape[1] // GROUP
    if width <= k:
        return d
    grouped = d[:, : width * GROUP].unflatten(1, (GROUP, width))
    group = grouped.amin(1).topk(k, 1, largest=False, sorted=False).indices
    kept = grouped.gather(2, group[:, None].expand(-1, GROUP, -1)).flatten(1)
    return torch.cat([kept, d[:, width * GROUP :]], 1)


def _least_of_columns(d: Tensor, k: int) -> Tensor:
    """``_least_of_rows`` of the transpose, without transposing what is large."""
    width = d.shape[0] // GROUP
    if width <= k:
        return d.T
    grouped = d[: width * GROUP].unflatten(0, (GROUP, width))
    group = grouped.amin(0).T.contiguous().topk(k, 1, largest=False, sorted=False).indices.T
    kept = grouped.gather(1, group.expand(GROUP, -1, -1)).flatten(0, 1)
    return torch.cat([kept, d[width * GROUP :]]).T
