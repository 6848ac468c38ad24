"""The discriminators that speed is measured on, with the widths of the libraries they are known from."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block of SNGAN's discriminator: two 3×3 convolutions, and a 1×1 one beside where the shape changes."""

    def __init__(self, channels_in: int, channels: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h))
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2) if self.first else x
        s = self.shortcut(x)
        return h + (F.avg_pool2d(s, 2) if self.down and not self.first else s)


class SNGAN32(nn.Module):
    """SNGAN's ResNet discriminator for 32×32 images, at torch-mimicry's width by default: 1,053,825 parameters."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Block(3, width, down=True, first=True),
            Block(width, width, down=True),
            Block(width, width, down=False),
            Block(width, width, down=False),
        )
        self.linear = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.blocks(x)).sum((2, 3))).squeeze(1)


def biggan128_layers(width: int = 96) -> nn.ModuleList:
    """The normalized layers of BigGAN's discriminator for 128×128 images: with biases and gain 87,982,370."""
    channels = [3, *(width * factor for factor in (1, 2, 4, 8, 16, 16))]
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(channels)):
        layers += [nn.Conv2d(before, after, 3), nn.Conv2d(after, after, 3)]
        if index < 5:
            layers.append(nn.Conv2d(before, after, 1))
    layers += [nn.Conv2d(width, width // 8, 1, bias=False), nn.Conv2d(width, width // 8, 1, bias=False)]
    layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.Conv2d(width // 2, width, 1, bias=False)]
    return nn.ModuleList([*layers, nn.Linear(channels[-1], 1), nn.Embedding(1000, channels[-1])])


def normalized_layers(network: nn.Module) -> list[nn.Module]:
    """Its layers with a weight."""
    return [layer for layer in network.modules() if isinstance(getattr(layer, "weight", None), torch.Tensor)]
