"""Self-attention over the pixels of a feature map (Zhang et al. 2018, arXiv 1805.08318)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """``x + γ·o(softmax(θ(x)ᵀφ(x))·g(x))``, γ learned and 0 at first (Zhang et al. 2018, section 3).

    Four 1×1 convolutions without bias; φ and g, keys and values, are max-pooled 2×2 (the authors' code). The match is
    not divided by the root of its length, as theirs is not.

    Args:
        channels: of the input, (n, channels, H, W), a multiple of 8; H and W at least 2.

    Raises:
        ValueError: channels that cannot be divided by 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 8 or channels % 8:
            near = max(8, round(channels / 8) * 8)
            raise ValueError(f"channels is {channels}; self-attention needs a multiple of 8: nearest {near}")
        self.theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.o = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2).mT
        key = F.max_pool2d(self.phi(x), 2).flatten(2).mT
        value = F.max_pool2d(self.g(x), 2).flatten(2).mT
        attended = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0).squeeze(1)
        return x + self.gamma * self.o(attended.mT.unflatten(2, x.shape[2:]))
