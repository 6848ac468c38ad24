"""The leading singular values of a weight, followed through training, and where σ₀ is to stand among them.

Brock et al. 2019 (arXiv 1809.11096, section 4.1) hold σ₀ at a fixed value or at a multiple of σ₁, the second singular
value; ``sigma-clamp`` does it by projection, ``sigma-reg`` by a penalty. Here singular values are counted from 0, as
in their paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poise.spectra.power import as_matrix
from poise.spectra.tracking import subspace_round

VECTORS = 4
"""singular vectors followed: two that are used, and two that make those converge when σ₂ and σ₃ are near"""
INITIAL_ROUNDS = 15


@dataclass(frozen=True)
class Level:
    """Where σ₀ is to stand: at ``sigma``, or at ``ratio`` times the second singular value; by default at 1.

    Attributes:
        sigma: above 0. ratio: at least 1, unitless; below it, a weight would shrink with every step.

    Raises:
        ValueError: both given, or out of range.
    """

    sigma: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None and self.ratio is not None:
            raise ValueError(f"sigma is {self.sigma} and ratio is {self.ratio}; give one of them")
        if self.ratio is None:
            object.__setattr__(self, "sigma", 1.0 if self.sigma is None else float(self.sigma))
        if self.sigma is not None and not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma is {self.sigma}; it must be above 0 and finite")
        if self.ratio is not None and not 1 <= self.ratio < float("inf"):
            raise ValueError(f"ratio is {self.ratio}; it must be at least 1 and finite")

    def of(self, values: Tensor) -> Tensor:
        """The level for a weight with these leading singular values, descending: a scalar.

        By ratio it is σ₀ itself where there is no second one: in a weight of one row or column, or of rank one.
        """
        if self.sigma is not None:
            return torch.full_like(values[0], self.sigma)
        assert self.ratio is not None
        if len(values) < 2:
            return values[0]
        rounding = 100 * torch.finfo(values.dtype).eps
        return torch.where(values[1] > rounding * values[0], self.ratio * values[1], values[0])

    def __str__(self) -> str:
        return f"sigma={self.sigma}" if self.ratio is None else f"ratio={self.ratio}"


@torch.no_grad()
def leading(weight: Tensor, row_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triples of a weight found from nothing: left, values and right as ``subspace_round`` says.

    Args:
        weight: any floating type. row_dim: the dimension that counts output units.
    """
    matrix = as_matrix(weight.detach(), row_dim)
    count, dtype = min(VECTORS, *matrix.shape), torch.promote_types(weight.dtype, torch.float32)
    basis = torch.randn(count, matrix.shape[1], dtype=dtype, device=matrix.device)
    if weight.is_meta:  # shapes alone, for what is loaded later
        return basis.new_empty(count, len(matrix)), basis.new_empty(count), basis
    for _ in range(INITIAL_ROUNDS):
        left, values, basis = subspace_round(matrix, basis)
    return left, values, basis
