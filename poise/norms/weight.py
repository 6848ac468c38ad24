"""Weight normalization: each output unit's weights divided by their own length, or the whole weight by its own.

``wn`` keeps the direction and learns the length (Salimans & Kingma 2016, arXiv 1602.07868). ``wn-strict`` has no length
to learn and no bias (Xiang & Li 2017, arXiv 1704.03971, section 2). ``frobenius`` divides by ‖W‖_F, the bound of every
singular value at once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from poise.norms.normalization import LayerWeight, Normalization, groups, wide

EPS = 1e-12  # a unit shorter than this counts as zero and is left as it is


def unit_norms(weight: Tensor, row_dim: int, groups: int = 1) -> Tensor:
    """Length of each output unit's weights, shaped to broadcast against the weight.

    Args:
        weight: of a linear or convolution layer. row_dim: the dimension that counts output units.
        groups: of a transposed convolution, whose output units are counted within each group.
    """
    if row_dim == 0 or groups == 1:
        others = [dim for dim in range(weight.ndim) if dim != row_dim]
        return torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    blocks = weight.unflatten(0, (groups, -1))  # (groups, c_in/groups, c_out/groups, k…)
    norms = torch.linalg.vector_norm(blocks, dim=[1, *range(3, blocks.ndim)], keepdim=True)
    return norms.expand(-1, blocks.shape[1], *norms.shape[2:]).flatten(0, 1)


def _divisor(norms: Tensor) -> Tensor:
    """The lengths to divide by: 1 where there is none, so that a zero unit stays zero with finite gradient."""
    return torch.where(norms > EPS, norms, torch.ones_like(norms))


class WeightNorm(Normalization):
    """``W ↦ g·W/‖W‖`` for each output unit; g is learned, or 1 when ``gain`` is False.

    Args:
        weight: the weight to normalize. row_dim, groups: as in ``unit_norms``.
        gain: learn g, from ‖W‖ on, so that the layer starts unchanged.
        share: what the squared length is divided by: the product of strides of a strict transposed convolution, each of
            whose output pixels sees that share of the kernel (Xiang & Li 2017).
    """

    def __init__(self, weight: Tensor, *, row_dim: int = 0, groups: int = 1, gain: bool = True, share: int = 1) -> None:
        super().__init__()
        self.row_dim, self.groups, self.share = row_dim, groups, share
        self.register_parameter("gain", None)
        if gain:
            self.gain = nn.Parameter(unit_norms(weight.detach(), row_dim, groups).clone())

    def begin_anew(self, weight: Tensor) -> None:
        if self.gain is not None:
            self.gain.copy_(unit_norms(weight, self.row_dim, self.groups))

    def forward(self, weight: Tensor) -> Tensor:
        # Sums of squares are safe from autocast, which leaves divisions alone and widens norms.
        w = wide(weight)
        direction = w / _divisor(unit_norms(w, self.row_dim, self.groups) / math.sqrt(self.share))
        return (direction if self.gain is None else self.gain * direction).to(weight.dtype)


class FrobeniusNorm(Normalization):
    """``W ↦ W / ‖W‖_F``: every singular value, and the operator norm of a linear layer, at most 1."""

    def forward(self, weight: Tensor) -> Tensor:
        w = wide(weight)
        return (w / _divisor(torch.linalg.vector_norm(w))).to(weight.dtype)


def wn(weight: LayerWeight) -> WeightNorm:
    """``g·w/‖w‖`` per output unit, g learned: weight normalization (Salimans & Kingma 2016, eq. 2)."""
    return WeightNorm(weight.tensor, row_dim=weight.out_dim, groups=groups(weight.layer))


def wn_strict(weight: LayerWeight) -> WeightNorm:
    """``w/‖w‖`` per output unit, no gain, and the bias taken away: strict weight normalization (Xiang & Li 2017)."""
    layer = weight.layer
    if getattr(layer, weight.bias, None) is not None:
        layer.register_parameter(weight.bias, None)
    stride = getattr(layer, "stride", ()) if weight.out_dim else ()
    share = math.prod(stride) if isinstance(stride, tuple) else 1
    return WeightNorm(weight.tensor, row_dim=weight.out_dim, groups=groups(layer), gain=False, share=share)


def frobenius(weight: LayerWeight) -> FrobeniusNorm:
    """``W / ‖W‖_F``: Frobenius normalization, a cheap bound of the spectral norm."""
    return FrobeniusNorm()
