"""Fréchet distance between Gaussians fitted to features (Dowson & Landau 1982; as FID, Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor


class GaussianStatistics:
    """Mean and covariance of features, streamed in float64: no feature is kept.

    Args:
        dim: features of an image.
        device: where sums are kept; one without float64 will not do.
    """

    def __init__(self, dim: int, device: str | torch.device = "cpu") -> None:
        self.n = 0
        self._sum = torch.zeros(dim, dtype=torch.float64, device=device)
        self._outer = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def add(self, features: Tensor) -> None:
        """Take in features of shape (n, dim)."""
        features = features.detach().to(self._sum.device).double()
        self.n += len(features)
        self._sum += features.sum(0)
        self._outer += features.T @ features

    @property
    def mean(self) -> Tensor:
        """(dim,)"""
        return (self._sum / self.n).cpu()

    @property
    def covariance(self) -> Tensor:
        """Unbiased, (dim, dim). Raises ValueError for fewer than 2 features."""
        if self.n < 2:
            raise ValueError(f"{self.n} features were added; a covariance needs at least 2")
        return (self._outer.cpu() - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)


def frechet_distance(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """``‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½)``, in squared units of the features.

    Args:
        mean_a, mean_b: (dim,); covariance_a, covariance_b: (dim, dim), positive semidefinite.
    """
    a, b = covariance_a.double(), covariance_b.double()
    # tr (Σ_a Σ_b)^½ is the sum of square roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric: no complex
    # root, and nothing to be regularized where a covariance is singular.
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    difference = (mean_a.double() - mean_b.double()).square().sum()
    return (difference + a.trace() + b.trace() - 2 * cross).item()
