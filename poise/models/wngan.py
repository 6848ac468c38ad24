"""The weight-normalized residual pair of Xiang and Li 2017 (arXiv 1704.03971), with no activation normalized anywhere.

Every level halves or doubles the image in one of its blocks, with as many levels as bring the longer side below 8
pixels (``poise.models.dcgan.levels_of``), at most 5:

===============  ======  ==========  =============================  =============================
pixels           levels  last map    channels, width 64             layers, 1, 2, 3 blocks a level
===============  ======  ==========  =============================  =============================
16               2       4 × 4       64 128                         5 9 13
32               3       4 × 4       64 128 256                     7 13 19
64               4       4 × 4       64 128 256 384                 9 17 25
128              5       4 × 4       64 128 256 384 512             11 21 31
160 (CelebA)     5       5 × 5       64 128 256 384 512             11 **21** 31
===============  ======  ==========  =============================  =============================

Layers are those with weights along the longest way through one network: two of each block and the linear layer at its
end or its beginning; shortcuts are not counted. The default, two blocks a level at 160 pixels, has 21, the paper's
number. A block is ``TReLU((a₁·residual + a₂·shortcut)/√(a₁² + a₂²))``; its residual branch has two strict
weight-normalized convolutions with a translated leaky ReLU in between; its shortcut is pooled 2×2 or doubled to the
nearest pixel, with a strict 1×1 convolution where channels change. The linear layers are affine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.layers.activation import TranslatedReLU
from poise.layers.transposed import ConvTranspose2d
from poise.layers.weight_normalized import WeightedSum, affine, strict
from poise.models.dcgan import AnySizeDiscriminator, AnySizeGenerator, Level
from poise.models.network import known_choice, positive

WIDTHS = (1, 2, 4, 6, 8)
"""channels of each level, in units of ``width``, from the image on"""
SLOPE = 0.25
LAYER_NORMS = ("weight", "none")


def _channels(levels: list[Level], width: int) -> list[int]:
    positive(width=width)
    return [width * factor for factor in WIDTHS[: len(levels)]]


def _matching(inputs: int, outputs: int, layer_norm: str) -> nn.Module:
    return nn.Identity() if inputs == outputs else _hidden(nn.Conv2d(inputs, outputs, 1), layer_norm)


def _hidden(layer: nn.Conv2d | nn.ConvTranspose2d, layer_norm: str) -> nn.Module:
    return strict(layer) if layer_norm == "weight" else layer


class DownBlock(nn.Module):
    """(n, inputs, H, W) → (n, outputs, H/2, W/2), or H × W as it was where there is no level to go down.

    Args:
        inputs, outputs: channels. layer_norm: "weight" or "none". level: how the image is padded and halved.
    """

    def __init__(self, inputs: int, outputs: int, layer_norm: str, level: Level | None = None) -> None:
        super().__init__()
        self.pad = level.pad if level else None
        if level:
            pad = (1 + level.pad[0], 1 + level.pad[1])
            first = nn.Conv2d(inputs, outputs, 4, stride=2, padding=pad)
        else:
            first = nn.Conv2d(inputs, outputs, 3, padding=1)
        second = nn.Conv2d(outputs, outputs, 3, padding=1)
        between = TranslatedReLU(outputs, slope=SLOPE)
        self.residual = nn.Sequential(_hidden(first, layer_norm), between, _hidden(second, layer_norm))
        self.match = _matching(inputs, outputs, layer_norm)
        self.sum, self.after = WeightedSum(outputs), TranslatedReLU(outputs, slope=SLOPE)

    def shortcut(self, x: Tensor) -> Tensor:
        return self.match(x if self.pad is None else F.avg_pool2d(x, 2, padding=self.pad))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.sum(self.residual(x), self.shortcut(x)))


class UpBlock(nn.Module):
    """(n, inputs, H, W) → (n, outputs, 2H, 2W), or H × W as it was where there is no level to go up.

    Args:
        inputs, outputs: channels. layer_norm: "weight" or "none". level: how the image was padded and halved.
        after: what follows the sum; a translated leaky ReLU by default.
    """

    def __init__(
        self, inputs: int, outputs: int, layer_norm: str, level: Level | None = None, after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.pad = level.pad if level else None
        first = nn.Conv2d(inputs, inputs, 3, padding=1)
        second: nn.Conv2d | nn.ConvTranspose2d
        if level:
            pad = (1 + level.pad[0], 1 + level.pad[1])
            second = ConvTranspose2d(inputs, outputs, 4, stride=2, padding=pad)
        else:
            second = nn.Conv2d(inputs, outputs, 3, padding=1)
        between = TranslatedReLU(inputs, slope=SLOPE)
        self.residual = nn.Sequential(_hidden(first, layer_norm), between, _hidden(second, layer_norm))
        self.match = _matching(inputs, outputs, layer_norm)
        self.sum = WeightedSum(outputs)
        self.after = after or TranslatedReLU(outputs, slope=SLOPE)

    def shortcut(self, x: Tensor) -> Tensor:
        x = self.match(x)
        if self.pad is None:
            return x
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        rows, columns = self.pad
        return x[:, :, rows : x.shape[2] - rows, columns : x.shape[3] - columns]

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.sum(self.residual(x), self.shortcut(x)))


class Affine(nn.Module):
    """``γ·x + β`` for each channel, γ 1 and β 0 at first; what ends the generator."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias[:, None, None], x, self.gain[:, None, None])


class WnganGenerator(AnySizeGenerator):
    """``G(z) → images``: latents (n, latent_dim) to images (n, 3, resolution, image_width) in [−1, 1].

    Takes what ``wngan`` does.
    """

    def __init__(
        self,
        resolution: int = 160,
        width: int = 64,
        blocks: int = 2,
        latent_dim: int = 128,
        layer_norm: str = "weight",
        image_width: int | None = None,
    ) -> None:
        super().__init__(resolution, image_width, latent_dim, "wngan", len(WIDTHS))
        known_choice(layer_norm, LAYER_NORMS, "layer_norm")
        positive(blocks=blocks)
        self.base = self.levels[-1].half
        channels = _channels(self.levels, width)
        linear = nn.Linear(latent_dim, channels[-1] * self.base[0] * self.base[1])
        if layer_norm == "weight":
            with torch.no_grad():
                linear.weight.mul_(0.01)  # the function stays, its first steps are larger (the authors' code)
            affine(linear)
        self.linear, self.after = linear, nn.PReLU(channels[-1])
        stack: list[nn.Module] = []
        for place in range(len(self.levels) - 1, -1, -1):
            here, image = channels[place], place == 0
            stack += [UpBlock(here, here, layer_norm) for _ in range(blocks - 1)]
            outputs = 3 if image else channels[place - 1]
            stack.append(UpBlock(here, outputs, layer_norm, self.levels[place], Affine(3) if image else None))
        self.blocks = nn.Sequential(*stack)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        h = self.linear(z).unflatten(1, (-1, *self.base)).contiguous(memory_format=torch.channels_last)
        return self.blocks(self.after(h)).tanh()


class WnganDiscriminator(AnySizeDiscriminator):
    """``D(x) → logits``: images (n, 3, resolution, image_width) in [−1, 1] to logits (n,).

    Takes what ``wngan`` does, but latent_dim.
    """

    def __init__(
        self,
        resolution: int = 160,
        width: int = 64,
        blocks: int = 2,
        layer_norm: str = "weight",
        image_width: int | None = None,
    ) -> None:
        super().__init__(resolution, image_width, "wngan", len(WIDTHS))
        known_choice(layer_norm, LAYER_NORMS, "layer_norm")
        positive(blocks=blocks)
        stack: list[nn.Module] = []
        inputs = 3
        for level, outputs in zip(self.levels, _channels(self.levels, width), strict=True):
            stack.append(DownBlock(inputs, outputs, layer_norm, level))
            stack += [DownBlock(outputs, outputs, layer_norm) for _ in range(blocks - 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*stack)
        rows, columns = self.levels[-1].half
        linear = nn.Linear(inputs * rows * columns, 1)
        self.linear = affine(linear) if layer_norm == "weight" else linear

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        return self.linear(self.blocks(x).flatten(1)).squeeze(1)


def depth(blocks: int, levels: int) -> int:
    """Layers with weights along the longest way through one network of so many blocks a level; 21 with 2 and 5."""
    return 2 * blocks * levels + 1


def wngan(
    resolution: int = 160,
    width: int = 64,
    blocks: int = 2,
    latent_dim: int = 128,
    layer_norm: str = "weight",
    image_width: int | None = None,
) -> tuple[WnganGenerator, WnganDiscriminator]:
    """Weight-normalized residual pair, 21 layers by default, any even size, of Xiang & Li 2017.

    Args:
        resolution: rows of the images, pixels: even, from 8.
        width: channels of the level next to the image; 2, 4, 6, 8 times that further in.
        blocks: residual blocks in each level; 2 make 21 layers of 128 or 160 pixels, 1 makes the 11 of the authors'
            example.
        latent_dim: length of z.
        layer_norm: "weight"; or "none", plain layers with biases, for another norm of ``poise.normalize``. The residual
            sums are weighted alike in both.
        image_width: columns, pixels, by the same rule; None: as many as rows.

    Raises:
        ValueError: a size or a word that there is not; the message names the nearest.
    """
    generator = WnganGenerator(resolution, width, blocks, latent_dim, layer_norm, image_width)
    return generator, WnganDiscriminator(resolution, width, blocks, layer_norm, image_width)
