"""Power iteration: the largest singular value of a matrix, one cheap round at a time.

Miyato et al. 2018 (arXiv 1802.05957), section 2.1 and appendix A: ``v ← Wᵀu/‖Wᵀu‖``, ``u ← Wv/‖Wv‖``, ``σ ≈ uᵀWv``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def as_matrix(weight: Tensor, row_dim: int = 0) -> Tensor:
    """The weight as a matrix with dimension ``row_dim`` as rows and all others, in order, as columns."""
    if row_dim:
        weight = weight.movedim(row_dim, 0)
    return weight.flatten(1)


@torch.no_grad()
def power_iteration(matrix: Tensor, u: Tensor, rounds: int = 1, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """Improve the leading singular vectors by ``rounds`` rounds of power iteration (SN paper, algorithm 1).

    Args:
        matrix: shape (m, n).
        u: left vector to start from, shape (m,); not modified.
        rounds: at least 1.
        eps: a vector shorter than this is divided by ``eps``, so that a zero matrix gives zero vectors, never NaN.

    Returns:
        New tensors u of shape (m,) and v of shape (n,), of unit length for a nonzero matrix.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; power iteration needs at least 1")
    for _ in range(rounds):
        v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=eps)
        u_next = torch.mv(matrix, v)
        norm = u_next.norm()
        # A zero matrix must not lose its u: the next, nonzero matrix could never be measured from a zero vector.
        u = torch.where(norm > eps, u_next / norm.clamp_min(eps), u)
    return u, v


def rayleigh(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """``uᵀWv``, the estimate of σ: a scalar, differentiable in the matrix with u and v held constant."""
    return torch.dot(u, torch.mv(matrix, v))
