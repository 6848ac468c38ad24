"""Residual blocks of the spectrally normalized GANs (Miyato et al. 2018, figure 8; Brock et al. 2019, figure 15)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from poise.layers.resampling import doubled, doubled_conv, halved_conv

Norm = Callable[[int], nn.Module]
"""channels ↦ a batch norm that takes (x, condition)"""
Upsampling = Literal["nearest", "bilinear"]


class GeneratorBlock(nn.Module):
    """Norm, ReLU, ×2, 3×3, norm, ReLU, 3×3, beside a shortcut ×2, 1×1: (n, inputs, H, W) → (n, outputs, 2H, 2W).

    Args:
        inputs, outputs: channels.
        norm: makes the two batch norms.
        upsample: how the image is doubled; None: it is not, and with as many outputs as inputs the shortcut is plain.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, upsample: Upsampling | None = "nearest") -> None:
        super().__init__()
        self.upsample = upsample
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        learned = inputs != outputs or upsample is not None
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if learned else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = F.relu(self.norm1(x, condition))
        h = self.conv1(h) if self.upsample is None else doubled_conv(self.conv1, h, self.upsample)
        h = self.conv2(F.relu(self.norm2(h, condition)))
        x = self.shortcut(x)  # a 1×1 convolution may as well see the smaller image
        return h + (x if self.upsample is None else doubled(x, self.upsample))


class DiscriminatorBlock(nn.Module):
    """ReLU, 3×3, ReLU, 3×3, mean of 2×2, beside a shortcut 1×1: (n, inputs, H, W) → (n, outputs, H/2, W/2).

    Args:
        inputs, outputs: channels.
        hidden: channels in between; as many as inputs by default.
        downsample: whether the image is halved; if not, with as many outputs as inputs the shortcut is plain.
        first: the block sees an image: no ReLU before, and the shortcut is halved first.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: int | None = None, downsample: bool = True, first: bool = False
    ) -> None:
        super().__init__()
        hidden = hidden or inputs
        self.downsample, self.first = downsample, first
        self.conv1 = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, outputs, 3, padding=1)
        learned = inputs != outputs or downsample
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.relu(x)
        h = F.relu(self.conv1(h))
        if not self.downsample:
            return self.conv2(h) + self.shortcut(x)
        return halved_conv(self.conv2, h) + self.shortcut(F.avg_pool2d(x, 2))  # 1×1 and mean: in either order
