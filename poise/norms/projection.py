"""Projections: weights put back into a set after each optimizer step, instead of being normalized when used.

They are parametrizations that return the weight as it is, so that they are named, copied, saved and taken off like
every norm; the work is done by a hook after each ``torch.optim`` step. With an optimizer of another kind, call
``project_`` yourself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from poise.norms.normalization import LayerWeight, Normalization, wide
from poise.spectra.power import as_matrix, power_iteration, rayleigh

INITIAL_ROUNDS = 15


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
    """``W ← W − max(0, σ₀ − σ_clamp)·u₀v₀ᵀ`` (Brock et al. 2019, section 4.1), one round of power iteration a step.

    Args:
        weight: the weight, from which u₀ is found. row_dim: the dimension that counts output units.
        sigma: σ_clamp, the largest σ₀ left standing, above 0.
    """

    u: Tensor

    def __init__(self, weight: Tensor, row_dim: int, sigma: float) -> None:
        super().__init__()
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma is {sigma}; it must be above 0 and finite")
        self.sigma, self.row_dim = float(sigma), row_dim
        matrix = as_matrix(wide(weight.detach()), row_dim)
        start = F.normalize(torch.randn_like(matrix[:, 0]), dim=0)
        self.register_buffer("u", power_iteration(matrix, start, INITIAL_ROUNDS)[0])

    @torch.no_grad()
    def project_(self, weight: Tensor) -> None:
        matrix = as_matrix(wide(weight), self.row_dim)
        self.u, v = power_iteration(matrix, self.u.to(matrix.dtype))
        excess = (rayleigh(matrix, self.u, v) - self.sigma).clamp_min(0)
        correction = (excess * torch.outer(self.u, v)).unflatten(1, weight.movedim(self.row_dim, 0).shape[1:])
        weight.sub_(correction.movedim(0, self.row_dim).to(weight.dtype))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


def clip(weight: LayerWeight, bound: float = 0.01) -> Clip:
    """Every entry into [−bound, bound] after each optimizer step: weight clipping (Arjovsky et al. 2017)."""
    return Clip(bound)


def sigma_clamp(weight: LayerWeight, sigma: float = 1.0) -> SigmaClamp:
    """``W − max(0, σ₀ − sigma)·u₀v₀ᵀ`` after each optimizer step: BigGAN's clamp (Brock et al. 2019, section 4.1)."""
    return SigmaClamp(weight.tensor, weight.out_dim, sigma)
