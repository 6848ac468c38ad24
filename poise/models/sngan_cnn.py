"""The standard CNN pair of Miyato et al. 2018, table 3 (also the one Lin et al. 2021 use).

Generator: linear to M_g × M_g, transposed convolutions 4×4 stride 2 that halve the channels, each with batch norm and
ReLU, then 3×3 to RGB and tanh. Discriminator: 3×3 and 4×4 stride 2 convolutions in turn, leaky ReLU 0.1, linear to one
logit. The discriminator has no normalization of its own: put one on with ``poise.normalize``. For the paper's baselines
it takes batch or layer norm after all convolutions but the first, and another number of channels in the last one.

==========  ====  ======  ==============================
resolution  M_g   stages  where
==========  ====  ======  ==============================
16          4     2       stacked digits
32          4     3       the paper's CIFAR-10
48          6     3       the paper's STL-10
16·k, k≥3   2·k   3       by the same rule
==========  ====  ======  ==============================
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from poise.layers.activation import rectified
from poise.layers.transposed import ConvTranspose2d
from poise.models.network import Discriminator, Generator, known_choice, positive

LAYER_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
}
"""what may stand after the discriminator's convolutions, by their channels; layer norm is over channels and pixels"""


def _stages(resolution: int) -> int:
    if resolution < 16 or resolution % 16:
        below = max(16, resolution // 16 * 16)
        raise ValueError(
            f"resolution is {resolution}; sngan-cnn has every multiple of 16 pixels: nearest {below} or {below + 16}"
        )
    return 2 if resolution == 16 else 3


class SnganCnnGenerator(Generator):
    """``G(z) → images``: latents (n, latent_dim) to images (n, 3, resolution, resolution) in [−1, 1].

    Args:
        resolution: image height and width in pixels, a multiple of 16.
        width: channels at full resolution (64 in the paper); doubled with every stage below it.
        latent_dim: length of z.
    """

    def __init__(self, resolution: int = 32, width: int = 64, latent_dim: int = 128) -> None:
        super().__init__(resolution, latent_dim)
        stages = _stages(resolution)
        positive(width=width)
        self.base = resolution >> stages
        channels = [width << stage for stage in range(stages, -1, -1)]
        self.linear = nn.Linear(latent_dim, self.base**2 * channels[0])
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.deconvs = nn.ModuleList(
            ConvTranspose2d(wide, narrow, 4, stride=2, padding=1) for wide, narrow in itertools.pairwise(channels)
        )
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        h = self.linear(z).unflatten(1, (-1, self.base, self.base))
        h = h.contiguous(memory_format=torch.channels_last)
        h = rectified(self.norms[0](h), self.norms[0])
        for deconv, norm in zip(self.deconvs, self.norms[1:], strict=True):
            h = rectified(norm(deconv(h)), deconv, norm)
        return torch.tanh(self.to_rgb(h))


class SnganCnnDiscriminator(Discriminator):
    """``D(x) → logits``: images (n, 3, resolution, resolution) in [−1, 1] to logits (n,).

    Args:
        resolution, width: the generator's.
        layer_norm: "none", or "batch" or "layer" after every convolution but the first (the SN paper's baselines).
        features: channels of the last convolution, relative to the table's (the SN paper's figure on feature maps).
    """

    def __init__(self, resolution: int = 32, width: int = 64, layer_norm: str = "none", features: float = 1.0) -> None:
        super().__init__(resolution)
        stages = _stages(resolution)
        positive(width=width)
        known_choice(layer_norm, tuple(LAYER_NORMS), "d_layer_norm")
        last = round(features * (width << stages))
        if not 1 <= last <= 2**16:
            raise ValueError(f"d_features is {features}; of {width << stages} channels allowed: 1 to {2**16}")
        layers = [nn.Conv2d(3, width, 3, padding=1)]
        for stage in range(stages):
            narrow, wide = width << stage, width << (stage + 1)
            layers += [nn.Conv2d(narrow, narrow, 4, stride=2, padding=1), nn.Conv2d(narrow, wide, 3, padding=1)]
        if last != layers[-1].out_channels:
            layers[-1] = nn.Conv2d(layers[-1].in_channels, last, 3, padding=1)
        self.convs = nn.ModuleList(layers)
        self.norms = nn.ModuleList(
            LAYER_NORMS[layer_norm if index else "none"](conv.out_channels) for index, conv in enumerate(layers)
        )
        self.linear = nn.Linear(last * (resolution >> stages) ** 2, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        h = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = rectified(norm(conv(h)), conv, norm, slope=0.1)
        return self.linear(h.flatten(1)).squeeze(1)


def sngan_cnn(
    resolution: int = 32, width: int = 64, latent_dim: int = 128, d_layer_norm: str = "none", d_features: float = 1.0
) -> tuple[SnganCnnGenerator, SnganCnnDiscriminator]:
    """Standard CNN of Miyato et al. 2018, table 3: resolutions 16 and up in multiples of 16.

    Args:
        resolution, width, latent_dim: as the networks take them.
        d_layer_norm, d_features: the discriminator's layer_norm and features.

    Raises ValueError for any other resolution or word, or a size below 1.
    """
    return (
        SnganCnnGenerator(resolution, width, latent_dim),
        SnganCnnDiscriminator(resolution, width, d_layer_norm, d_features),
    )
