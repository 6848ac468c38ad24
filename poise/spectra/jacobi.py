"""Singular value decompositions of small matrices that do not make the host wait for a CUDA device.

One-sided Jacobi rotations (Hestenes 1958), every pair of columns once a sweep in the order of a round-robin tournament
(Brent and Luk 1985), so that half of all columns are turned at a time. torch's own decompositions on CUDA ask whether
they converged, and with that wait for all work in the queue.
"""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 8  # rotations converge quadratically: at 12 columns of float64 seven leave up to 4000 ε, eight none
COLUMNS = 12  # at most; more are left to torch


def small_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, singular values (descending) and Vᵀ of square matrices, shape (..., n, n)."""
    if matrix.device.type == "cpu" or matrix.shape[-1] > COLUMNS:
        return torch.linalg.svd(matrix)
    return jacobi_svd(matrix)


def jacobi_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``torch.linalg.svd`` for square matrices, shape (..., n, n), n ≤ ``COLUMNS``, on any device without a wait."""
    count = matrix.shape[-1]
    rounds = 0 if count == 1 else SWEEPS * (count - 1 + count % 2)  # of a tournament in which nobody or one sits out
    eye = torch.eye(count, dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    scale = matrix.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    columns = torch.cat([matrix / scale, eye], dim=-2)  # above, A V with columns ever more orthogonal; below, V
    for _ in range(rounds):
        columns = _seated_anew(_turned(columns, count))
    turned, right = columns.split(count, dim=-2)
    order = turned.norm(dim=-2).argsort(dim=-1, descending=True)[..., None, :].expand_as(turned)
    # Of a column of rounding errors no direction can be taken: a QR decomposition gives one where it is missing.
    left, core = torch.linalg.qr(turned.gather(-1, order))
    values = core.diagonal(dim1=-2, dim2=-1)
    return left * torch.where(values < 0, -1, 1)[..., None, :], values.abs() * scale[..., 0], right.gather(-1, order).mT


def _turned(columns: Tensor, rows: int) -> Tensor:
    """Each column turned against the one as far from the other end, until both are orthogonal in the first rows."""
    half = columns.shape[-1] // 2
    first, middle = columns[..., :half], columns[..., half : columns.shape[-1] - half]
    last = columns[..., columns.shape[-1] - half :].flip(-1)
    above, below = first[..., :rows, :], last[..., :rows, :]
    overlap = 2 * (above * below).sum(-2, keepdim=True)
    excess = below.square().sum(-2, keepdim=True) - above.square().sum(-2, keepdim=True)
    angle = 0.5 * torch.atan2(overlap * torch.where(excess < 0, -1, 1), excess.abs())  # at most π/4: it converges
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos * first - sin * last, middle, (sin * first + cos * last).flip(-1)], dim=-1)


def _seated_anew(columns: Tensor) -> Tensor:
    """The next round of the tournament: all move up one seat, but of an even number the first keeps its own."""
    if columns.shape[-1] % 2:
        return columns.roll(1, -1)
    return torch.cat([columns[..., :1], columns[..., 1:].roll(1, -1)], dim=-1)
