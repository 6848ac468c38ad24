"""The residual pair without any normalization of R3GAN (Huang et al. 2025, arXiv 2501.05441).

Each side from 4 pixels on has its blocks; between two sides the image is resampled with the filter [1, 2, 1], which on
the doubled grid is [1, 3, 3, 1]/8: bilinear, but for the border, beyond which lie zeros. The generator begins with a
learned 4 × 4 image for each channel, scaled by a linear function of z; the discriminator ends with as many 4 × 4
weights and a linear map.

=====  ===================  =============================================
side   channels, width 768  the paper's images of this size
=====  ===================  =============================================
4      768                  –
8      768                  –
16     768                  –
32     768                  CIFAR-10; ImageNet with width 1536
64     384                  FFHQ
128    192                  –
256    96                   FFHQ
=====  ===================  =============================================

A block is ``x + conv₁ₓ₁(lrelu(conv₃ₓ₃(lrelu(conv₁ₓ₁(x)))))`` with twice the channels inside and 16 of them to a group
of the 3×3 convolution. For L blocks in a network, the first two convolutions start from N(0, g²/fan_in) with
``g = √(2/(1 + 0.2²))·L^(−1/4)`` and the last from 0 (fix-up initialization, Zhang et al. 2019, arXiv 1901.09321): every
block starts as the identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.models.network import Discriminator, Generator, known_resolution, positive

SHARES = {4: 1, 8: 1, 16: 1, 32: 1, 64: 2, 128: 4, 256: 8}
"""what ``width`` is divided by at each side, pixels"""
RESOLUTIONS = tuple(side for side in SHARES if side > 4)
SLOPE = 0.2
EXPANSION = 2
GROUP = 16  # channels


def _sides(resolution: int, width: int) -> dict[int, int]:
    """Channels at each side, from 4 pixels up to the resolution."""
    known_resolution(resolution, RESOLUTIONS, "r3gan")
    unit = GROUP // EXPANSION * SHARES[resolution]
    if width < unit or width % unit:
        below = max(unit, width // unit * unit)
        raise ValueError(
            f"width is {width}; at {resolution} pixels r3gan has multiples of {unit} channels: "
            f"nearest {below} or {below + unit}"
        )
    return {side: width // share for side, share in SHARES.items() if side <= resolution}


def _normal(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Weights from N(0, gain²/fan_in), which keep variance for gain 1; bias 0."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    _normal(layer)
    return layer


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 1, bias=False)
    _normal(layer)
    return layer


class Resample(nn.Module):
    """(n, channels, H, W) to half or double the height and width, low-passed by [1, 3, 3, 1]/8 on either side's grid.

    Args:
        up: double it, else halve it.
    """

    kernel: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps) * (4 if up else 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).repeat(channels, 1, 1, 1)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(x, kernel, stride=2, padding=1, groups=channels)


class ResidualBlock(nn.Module):
    """``x + conv₁ₓ₁(lrelu(conv₃ₓ₃(lrelu(conv₁ₓ₁(x)))))``, the identity at first: (n, channels, H, W) to the same.

    Args:
        channels: a multiple of 8; twice as many inside. blocks: how many the whole network has, for the first scale.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        inside = EXPANSION * channels
        self.conv1 = nn.Conv2d(channels, inside, 1)
        self.conv2 = nn.Conv2d(inside, inside, 3, padding=1, groups=inside // GROUP)
        self.conv3 = nn.Conv2d(inside, channels, 1, bias=False)
        gain = math.sqrt(2 / (1 + SLOPE**2)) * blocks ** (-1 / 4)  # three linear layers: −1/(2·3 − 2)
        _normal(self.conv1, gain)
        _normal(self.conv2, gain)
        nn.init.zeros_(self.conv3.weight)

    def residual(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv1(x), SLOPE)
        return self.conv3(F.leaky_relu(self.conv2(h), SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class R3ganGenerator(Generator):
    """``G(z, y=None) → images``: latents (n, latent_dim) to images (n, 3, resolution, resolution).

    Takes what ``r3gan`` does.
    """

    def __init__(
        self,
        resolution: int = 32,
        width: int = 768,
        blocks: int = 2,
        latent_dim: int = 64,
        num_classes: int = 0,
        bounded: bool = True,
    ) -> None:
        super().__init__(resolution, latent_dim, num_classes)
        sides = _sides(resolution, width)
        positive(blocks=blocks)
        self.bounded = bounded
        self.embed: nn.Embedding | None = None
        if num_classes:
            self.embed = nn.Embedding(num_classes, latent_dim)
            nn.init.normal_(self.embed.weight, std=1 / math.sqrt(num_classes))
        self.linear = _linear(latent_dim * (2 if num_classes else 1), width)
        self.basis = nn.Parameter(torch.randn(width, 4, 4))
        stack: list[nn.Module] = []
        before = width
        for side, channels in sides.items():
            if side > 4:
                stack += [] if channels == before else [_pointwise(before, channels)]
                stack.append(Resample(up=True))
            stack += [ResidualBlock(channels, blocks * len(sides)) for _ in range(blocks)]
            before = channels
        self.blocks, self.to_rgb = nn.Sequential(*stack), _pointwise(before, 3)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        if self.embed is not None:
            z = torch.cat([z, self.embed(y)], 1)
        images = self.to_rgb(self.blocks(self.basis * self.linear(z)[:, :, None, None]))
        return images.tanh() if self.bounded else images


class R3ganDiscriminator(Discriminator):
    """``D(x, y=None) → logits``: images (n, 3, resolution, resolution) in [−1, 1] to logits (n,).

    Takes what ``r3gan`` does, but latent_dim and bounded. With classes, ``⟨features, embed(y)⟩`` is the logit.
    """

    def __init__(self, resolution: int = 32, width: int = 768, blocks: int = 2, num_classes: int = 0) -> None:
        super().__init__(resolution, num_classes)
        sides = _sides(resolution, width)
        positive(blocks=blocks)
        before = sides[resolution]
        self.from_rgb = _pointwise(3, before)
        stack: list[nn.Module] = []
        for side, channels in reversed(sides.items()):
            if side < resolution:
                stack.append(Resample(up=False))
                stack += [] if channels == before else [_pointwise(before, channels)]
            stack += [ResidualBlock(channels, blocks * len(sides)) for _ in range(blocks)]
            before = channels
        self.blocks = nn.Sequential(*stack)
        self.basis = nn.Conv2d(width, width, 4, groups=width, bias=False)
        _normal(self.basis)
        features = width if num_classes else 1
        self.linear = _linear(width, features)
        self.embed: nn.Embedding | None = None
        if num_classes:
            self.embed = nn.Embedding(num_classes, features)
            nn.init.normal_(self.embed.weight, std=1 / math.sqrt(num_classes * features))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        features = self.linear(self.basis(self.blocks(self.from_rgb(x))).flatten(1))
        return features.squeeze(1) if self.embed is None else (features * self.embed(y)).sum(1)


def r3gan(
    resolution: int = 32,
    width: int = 768,
    blocks: int = 2,
    latent_dim: int = 64,
    num_classes: int = 0,
    bounded: bool = True,
) -> tuple[R3ganGenerator, R3ganDiscriminator]:
    """Residual pair without normalization, fix-up initialized, at 8 to 256 pixels, of R3GAN (Huang et al. 2025).

    Made for the relativistic pairing loss with R1 and R2 penalties.

    Args:
        resolution: pixels: 8, 16, 32, 64, 128 or 256.
        width: channels at 4 to 32 pixels, a multiple of 8 (of 16 at 64 pixels, 32 at 128, 64 at 256).
        blocks: residual blocks at each side.
        latent_dim: length of z, and of the generator's label embedding.
        num_classes: labels are 0 to num_classes − 1; 0: none.
        bounded: end the generator with tanh, so that images lie in [−1, 1]; the paper's ends without.

    Raises:
        ValueError: a size that there is not; the message names the nearest.
    """
    generator = R3ganGenerator(resolution, width, blocks, latent_dim, num_classes, bounded)
    return generator, R3ganDiscriminator(resolution, width, blocks, num_classes)
