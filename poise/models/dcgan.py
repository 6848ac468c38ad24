"""The deep convolutional pair of Radford et al. 2016 (arXiv 1511.06434), and its weight-normalized form.

Generator: linear, then transposed convolutions 4×4 stride 2 that halve the channels, and tanh. Discriminator: 4×4
convolutions stride 2 that double them, and linear to one logit. As many levels as halve the longer side below 8 pixels:

====================  ======  =========  ===========================
pixels                levels  last map   channels, width 64
====================  ======  =========  ===========================
16                    2       4 × 4      64 128
32                    3       4 × 4      64 128 256
64                    4       4 × 4      64 128 256 512
128                   5       4 × 4      64 128 256 512 1024
160 (CelebA, LSUN)    5       5 × 5      64 128 256 512 1024
even H × W from 8     same    same rule  width, doubled level by level
====================  ======  =========  ===========================

A map whose half would be odd is padded by a pixel on each side; the last may be odd (Xiang and Li 2017, their code).

==========  ===========================================================================================================
layer_norm  what it does
==========  ===========================================================================================================
batch       batch norm after every layer but the generator's last and the discriminator's first and last (Radford)
layer       layer norm, over channels and pixels of each image, in the same places
weight      strict weight-normalized layers, the last affine, translated leaky ReLU (Xiang and Li, arXiv 1704.03971)
none        nothing: put a norm on from outside with ``poise.normalize``
==========  ===========================================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from poise.layers.activation import TranslatedReLU
from poise.layers.transposed import ConvTranspose2d
from poise.layers.weight_normalized import affine, strict
from poise.models.network import Discriminator, Generator, known_choice, positive

LAYER_NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "weight": None,
    "none": None,
}
ACTIVATIONS: dict[str, Callable[[int, float], nn.Module]] = {
    "relu": lambda _, slope: nn.LeakyReLU(slope) if slope else nn.ReLU(),
    "prelu": lambda channels, _: nn.PReLU(channels),
    "translated": lambda channels, _: TranslatedReLU(channels),
    "translated-leaky": lambda channels, _: TranslatedReLU(channels, slope=0.25),
}
SMALLEST = 8  # pixels


class Level(NamedTuple):
    """An image of ``size`` pixels, rows and columns, padded by ``pad`` on each side and halved."""

    size: tuple[int, int]
    pad: tuple[int, int]

    @property
    def half(self) -> tuple[int, int]:
        """The next level's size."""
        return (self.size[0] + 2 * self.pad[0]) // 2, (self.size[1] + 2 * self.pad[1]) // 2


def levels_of(size: tuple[int, int], architecture: str, most: int | None = None) -> list[Level]:
    """How images of rows × columns ``size`` are halved until the longer side is below 8 pixels, or ``most`` times.

    Raises ValueError for a side that is odd or below 8.
    """
    for name, side in zip(("resolution", "image_width"), size, strict=True):
        if side < SMALLEST or side % 2:
            near = f"{SMALLEST}" if side < SMALLEST else f"{side - 1} or {side + 1}"
            raise ValueError(f"{name} is {side}; {architecture} has every even number of pixels from 8: nearest {near}")
    count, longest = 0, max(size)
    while longest >= 8 and count != most:
        count, longest = count + 1, (longest + 1) // 2
    levels = []
    for place in range(count):
        last = place == count - 1
        rows, columns = (0 if last or side % 4 == 0 else 1 for side in size)
        levels.append(Level(size, (rows, columns)))
        size = levels[-1].half
    return levels


class AnySizeGenerator(Generator):
    """A generator whose images may be wider or narrower than high.

    Attributes:
        size: of the images, rows and columns in pixels. levels: how it is halved; the generator goes backwards.
        resolution: the rows.
    """

    def __init__(
        self, resolution: int, image_width: int | None, latent_dim: int, architecture: str, most: int | None = None
    ) -> None:
        super().__init__(resolution, latent_dim)
        self.size = (resolution, resolution if image_width is None else image_width)
        self.levels = levels_of(self.size, architecture, most)


class AnySizeDiscriminator(Discriminator):
    """A discriminator of images that may be wider or narrower than high; attributes as of ``AnySizeGenerator``."""

    def __init__(self, resolution: int, image_width: int | None, architecture: str, most: int | None = None) -> None:
        super().__init__(resolution)
        self.size = (resolution, resolution if image_width is None else image_width)
        self.levels = levels_of(self.size, architecture, most)

    def check(self, x: Tensor, y: Tensor | None) -> None:
        """Raise ValueError for images or labels that do not fit."""
        if x.ndim != 4 or x.shape[1:] != (3, *self.size):
            expected = f"(n, 3, {self.size[0]}, {self.size[1]})"
            raise ValueError(f"images have shape {tuple(x.shape)}; this discriminator takes {expected}")
        self.check_labels(y, len(x))


class _Form(NamedTuple):
    """What follows a layer: the options that both networks share."""

    layer_norm: str
    activation: str
    slope: float

    @classmethod
    def chosen(cls, layer_norm: str, activation: str | None, slope: float) -> _Form:
        known_choice(layer_norm, LAYER_NORMS, "layer_norm")
        activation = activation or ("translated-leaky" if layer_norm == "weight" else "relu")
        return cls(layer_norm, known_choice(activation, ACTIVATIONS, "activation"), slope)

    @property
    def has_norm(self) -> bool:
        return LAYER_NORMS[self.layer_norm] is not None

    def hidden(self, layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
        if self.has_norm:
            nn.init.normal_(layer.weight, std=0.02)  # Radford et al., section 4; without a norm signals would die out
        return strict(layer) if self.layer_norm == "weight" else layer

    def last(self, layer: nn.Linear | nn.ConvTranspose2d) -> nn.Module:
        if self.has_norm:
            nn.init.normal_(layer.weight, std=0.02)
        return affine(layer) if self.layer_norm == "weight" else layer

    def after(self, channels: int, with_norm: bool = True) -> nn.Sequential:
        norm = LAYER_NORMS[self.layer_norm] if with_norm else None
        activation = ACTIVATIONS[self.activation](channels, self.slope)
        return nn.Sequential(activation) if norm is None else nn.Sequential(norm(channels), activation)


class DcganGenerator(AnySizeGenerator):
    """``G(z) → images``: latents (n, latent_dim) to images (n, 3, resolution, image_width) in [−1, 1].

    Args:
        resolution, image_width: rows and columns, pixels. latent_dim: length of z.
        width: channels next to the image's, doubled with every level. layer_norm, activation: as in ``dcgan``.
    """

    def __init__(
        self,
        resolution: int = 64,
        width: int = 64,
        latent_dim: int = 100,
        layer_norm: str = "batch",
        activation: str | None = None,
        image_width: int | None = None,
    ) -> None:
        super().__init__(resolution, image_width, latent_dim, "dcgan")
        positive(width=width)
        form = _Form.chosen(layer_norm, activation, slope=0.0)
        self.base = self.levels[-1].half
        channels = [width << place for place in range(len(self.levels) - 1, -1, -1)]
        bias = not form.has_norm  # a norm takes its input's mean away
        linear = nn.Linear(latent_dim, channels[0] * self.base[0] * self.base[1], bias=bias)
        if layer_norm == "weight":
            with torch.no_grad():
                linear.weight.mul_(0.01)  # the function stays, its first steps are larger (the authors' code)
        self.linear = form.hidden(linear)
        self.after = nn.ModuleList(form.after(wide) for wide in channels)
        deconvs = [
            form.hidden(_deconv(wide, narrow, level, bias))
            for (wide, narrow), level in zip(itertools.pairwise(channels), self.levels[:0:-1], strict=True)
        ]
        self.deconvs = nn.ModuleList([*deconvs, form.last(_deconv(width, 3, self.levels[0], bias=True))])

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        h = self.linear(z).unflatten(1, (-1, *self.base)).contiguous(memory_format=torch.channels_last)
        for after, deconv in zip(self.after, self.deconvs, strict=True):
            h = deconv(after(h))
        return h.tanh()


class DcganDiscriminator(AnySizeDiscriminator):
    """``D(x) → logits``: images (n, 3, resolution, image_width) in [−1, 1] to logits (n,).

    Takes the generator's resolution, width, layer_norm, activation and image_width.
    """

    def __init__(
        self,
        resolution: int = 64,
        width: int = 64,
        layer_norm: str = "batch",
        activation: str | None = None,
        image_width: int | None = None,
    ) -> None:
        super().__init__(resolution, image_width, "dcgan")
        positive(width=width)
        form = _Form.chosen(layer_norm, activation, slope=0.2)
        channels = [3, *(width << place for place in range(len(self.levels)))]
        blocks = []
        for (narrow, wide), level in zip(itertools.pairwise(channels), self.levels, strict=True):
            first = narrow == 3
            pad = (1 + level.pad[0], 1 + level.pad[1])
            conv = nn.Conv2d(narrow, wide, 4, stride=2, padding=pad, bias=first or not form.has_norm)
            blocks.append(nn.Sequential(form.hidden(conv), *form.after(wide, with_norm=not first)))
        self.blocks = nn.Sequential(*blocks)
        rows, columns = self.levels[-1].half
        self.linear = form.last(nn.Linear(channels[-1] * rows * columns, 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        return self.linear(self.blocks(x).flatten(1)).squeeze(1)


def _deconv(wide: int, narrow: int, level: Level, bias: bool) -> nn.ConvTranspose2d:
    pad = (1 + level.pad[0], 1 + level.pad[1])
    return ConvTranspose2d(wide, narrow, 4, stride=2, padding=pad, bias=bias)


def dcgan(
    resolution: int = 64,
    width: int = 64,
    latent_dim: int = 100,
    layer_norm: str = "batch",
    activation: str | None = None,
    image_width: int | None = None,
) -> tuple[DcganGenerator, DcganDiscriminator]:
    """Deep convolutional pair (batch, layer, weight or no norm; any even size) of Radford et al. 2016, Xiang & Li 2017.

    Args:
        resolution: rows of the images, pixels: even, from 8.
        width: channels next to the image's, doubled with every level.
        latent_dim: length of z; 100 in Radford et al., 256 on Xiang and Li's CelebA.
        layer_norm: "batch", "layer", "weight" or "none". With "weight" both networks are normalized already: for
            another norm of ``poise.normalize`` take "none".
        activation: "relu" (leaky 0.2 in the discriminator), "prelu" (Xiang and Li's networks without weight norm),
            "translated" or "translated-leaky"; None: the last for layer_norm "weight", else "relu".
        image_width: columns, pixels, by the same rule; None: as many as rows.

    Raises:
        ValueError: a size or a word that there is not; the message names the nearest.
    """
    generator = DcganGenerator(resolution, width, latent_dim, layer_norm, activation, image_width)
    return generator, DcganDiscriminator(resolution, width, layer_norm, activation, image_width)
