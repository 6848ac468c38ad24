"""Intra-class FID (Miyato & Koyama 2018, section 5): the Fréchet distance within each class, and its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from poise.metrics.frechet import frechet_distance


def frechet_distance_of_features(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of two sets of features, (n, d) and (m, d), at least 2 each.

    With fewer features than dimensions no (d, d) matrix is made: ``tr(Σ_aΣ_b)^½`` is the sum of the singular values of
    ``A Bᵀ/√((n − 1)(m − 1))`` for centred features A and B.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"there are {len(a)} and {len(b)} features; a covariance needs at least 2")
    a, b = a.double(), b.double()
    if max(len(a), len(b)) >= a.shape[1]:
        return frechet_distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    centred_a, centred_b = a - a.mean(0), b - b.mean(0)
    free_a, free_b = len(a) - 1, len(b) - 1
    cross = torch.linalg.svdvals(centred_a @ centred_b.T).sum() / (free_a * free_b) ** 0.5
    traces = centred_a.square().sum() / free_a + centred_b.square().sum() / free_b
    return ((a.mean(0) - b.mean(0)).square().sum() + traces - 2 * cross).item()


def intra_class_distances(generated: Tensor, generated_labels: Tensor, real: Tensor, real_labels: Tensor) -> Tensor:
    """The Fréchet distance within each class, (classes,), float64; NaN for one with fewer than 2 features on a side.

    Args:
        generated, real: features (n, d), (m, d). generated_labels, real_labels: int64 (n,), (m,).
    """
    classes = int(torch.cat([generated_labels, real_labels]).max()) + 1
    found = torch.full((classes,), torch.nan, dtype=torch.float64)
    for label in range(classes):
        a, b = generated[generated_labels == label], real[real_labels == label]
        if min(len(a), len(b)) >= 2:
            found[label] = frechet_distance_of_features(a, b)
    return found
