"""Parts of weight-normalized nets: strict and affine layers, residual sums (Xiang and Li 2017, arXiv 1704.03971)."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.norms import normalize, normalized_weights
from poise.norms.weight import WeightNorm

Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv2d | nn.ConvTranspose2d)


def strict(layer: Layer) -> Layer:
    """``wᵀx/‖w‖`` for each output unit, without gain and bias: the paper's hidden layers. Returns the layer."""
    normalize(layer, "wn-strict")
    return layer


def affine(layer: Layer) -> Layer:
    """``γ·wᵀx/‖w‖ + β`` for each output unit, γ 1 and β 0 at first: the paper's last layers. Returns the layer.

    A transposed convolution's γ starts at the root of its strides' product, so that it begins as ``strict`` would have
    it: of its weights each output pixel sees but that share.
    """
    normalize(layer, "wn")
    stride = layer.stride if isinstance(layer, nn.ConvTranspose2d) else (1,)
    with torch.no_grad():
        for weight in normalized_weights(layer):
            if isinstance(weight.normalization, WeightNorm) and weight.normalization.gain is not None:
                weight.normalization.gain.fill_(math.sqrt(math.prod(stride)))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


class WeightedSum(nn.Module):
    """``(a₁·residual + a₂·shortcut)/√(a₁² + a₂²)``, a learned per channel, at first the shortcut alone.

    The sum of two uncorrelated maps of variance 1 has variance 1 again, however many blocks follow each other.

    Args:
        channels: of both maps, (n, channels, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([torch.zeros(channels), torch.ones(channels)]))

    def forward(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        of_residual, of_shortcut = F.normalize(self.weight, dim=0)[:, :, None, None]
        return of_residual * residual + of_shortcut * shortcut
