"""Projections: weights put back into a set after each optimizer step, instead of being normalized when used.

They are parametrizations that return the weight as it is, so that they are named, copied, saved and taken off like
every norm; the work is done by a hook after each ``torch.optim`` step. With an optimizer of another kind, call
``project_`` yourself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from poise.norms.leading import Level, leading
from poise.norms.matrix import as_weight
from poise.norms.normalization import LayerWeight, Normalization, as_type
from poise.spectra.power import as_matrix
from poise.spectra.tracking import subspace_round


class Projection(Normalization, ABC):
    """The identity in ``forward``; subclasses change the weight in ``project_``, after each optimizer step."""

    @abstractmethod
    def project_(self, weight: Tensor) -> None:
        """Put ``weight`` back into the set, in place."""

    @torch.no_grad()
    def after_step(self, weight: Tensor) -> None:
        self.project_(weight)

    def forward(self, weight: Tensor) -> Tensor:
        self.attend(weight)
        return weight


class Clip(Projection):
    """Every entry into [−bound, bound] (Arjovsky et al. 2017, algorithm 1).

    Args:
        bound: in units of the weight, above 0 (0.01 in the paper).
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        if not 0 < bound < float("inf"):
            raise ValueError(f"bound is {bound}; it must be above 0 and finite (paper: 0.01)")
        self.bound = float(bound)

    @torch.no_grad()
    def project_(self, weight: Tensor) -> None:
        weight.clamp_(-self.bound, self.bound)

    def extra_repr(self) -> str:
        return f"bound={self.bound}"


class SigmaClamp(Projection):
    """``W ← W − max(0, σ₀ − σ_clamp)·u₀v₀ᵀ`` (Brock et al. 2019, section 4.1), one round of tracking a step.

    σ_clamp is fixed, or ``ratio`` times the second singular value; a weight that has none is left as it is then.

    Args:
        weight: the weight, from which v₀ is found. row_dim: the dimension that counts output units.
        sigma: σ_clamp, the largest σ₀ left standing, above 0; 1 by default.
        ratio: instead of it, σ_clamp in units of the second singular value, at least 1.
    """

    right: Tensor

    def __init__(self, weight: Tensor, row_dim: int, sigma: float | None = None, ratio: float | None = None) -> None:
        super().__init__()
        self.level, self.row_dim = Level(sigma, ratio), row_dim
        self.register_buffer("right", leading(weight, row_dim)[2])

    @torch.no_grad()
    def project_(self, weight: Tensor) -> None:
        left, values, right = subspace_round(as_matrix(weight, self.row_dim), self.right)
        self.right = as_type(right, self.right.dtype)
        excess = values[0] - self.level.of(values)
        excess = torch.where(excess > 0, excess, 0)  # also for NaN, which a weight may recover from
        weight.sub_(as_weight(excess * torch.outer(left[0], right[0]), weight, self.row_dim))

    def extra_repr(self) -> str:
        return str(self.level)


def clip(weight: LayerWeight, bound: float = 0.01) -> Clip:
    """Every entry into [−bound, bound] after each optimizer step: weight clipping (Arjovsky et al. 2017)."""
    return Clip(bound)


def sigma_clamp(weight: LayerWeight, sigma: float | None = None, ratio: float | None = None) -> SigmaClamp:
    """``W − max(0, σ₀ − c)·u₀v₀ᵀ`` after each step, c = sigma (1) or ratio·σ₁: BigGAN's clamp (Brock et al. 2019)."""
    return SigmaClamp(weight.tensor, weight.out_dim, sigma, ratio)
