"""The ResNet pair of Miyato et al. 2018 (arXiv 1802.05957), with labels as in Miyato and Koyama 2018 (1802.05637).

Generator: linear to base × base, residual blocks that double the image, batch norm, ReLU, 3×3 to RGB, tanh; with labels
the batch norms within blocks have a gain and a bias for every class. Discriminator: residual blocks of which the first
halve the image, ReLU, sum over the pixels, linear to one logit. It has no normalization of its own: put one on with
``poise.normalize``. Channels, in units of ``width``:

==========  =====  ====  ======================  =====================  =======  ====================================
resolution  width  base  generator               discriminator          halving  source
==========  =====  ====  ======================  =====================  =======  ====================================
32          128    4     2, 2, 2, 2              1, 1, 1, 1             2        the SN paper's table 4, CIFAR-10
48          64     6     8, 4, 2, 1              1, 2, 4, 8, 16         4        table 5, STL-10
64          64     4     16, 8, 4, 2, 1          1, 2, 4, 8, 16         5        the authors' code
128         64     4     16, 16, 8, 4, 2, 1      1, 2, 4, 8, 16, 16     5        table 6, ImageNet
==========  =====  ====  ======================  =====================  =======  ====================================

Torch-mimicry's networks have the same parameters and compute something else, which options give: images are doubled
bilinearly, by the authors to the nearest pixel; the discriminator's shortcuts see their input after the ReLU, which is
done in place, the authors' before it. The discriminator's linear layer has a bias at every resolution; the authors'
code leaves it out at 32.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.layers import BatchNorm, ClassBatchNorm, DiscriminatorBlock, GeneratorBlock, SelfAttention
from poise.models.network import Discriminator, Generator, known_choice, known_resolution, positive

Conditioning = Literal["projection", "concat", "auxiliary"]
Upsampling = Literal["nearest", "bilinear"]
EMBEDDING_DIM = 128  # of a label to be concatenated, at the paper's width (the authors' code)


@dataclass(frozen=True)
class Plan:
    """What one resolution is made of.

    Attributes:
        width: channels that the multiples below count, in the paper.
        base: height and width of the generator's first image, pixels.
        generator: channels of the first image, then of each block's output, in units of width.
        discriminator: channels of each block's output, in units of width.
        halving: how many of the discriminator's blocks, counted from the first, halve the image.
        concat_after: blocks before a label's embedding is concatenated.
    """

    width: int
    base: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halving: int
    concat_after: int


PLANS = {
    32: Plan(128, 4, (2, 2, 2, 2), (1, 1, 1, 1), halving=2, concat_after=2),
    48: Plan(64, 6, (8, 4, 2, 1), (1, 2, 4, 8, 16), halving=4, concat_after=3),
    64: Plan(64, 4, (16, 8, 4, 2, 1), (1, 2, 4, 8, 16), halving=5, concat_after=3),
    128: Plan(64, 4, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), halving=5, concat_after=3),
}


def _plan(resolution: int, width: int | None) -> tuple[Plan, int]:
    plan = PLANS[known_resolution(resolution, PLANS, "the spectrally normalized ResNet")]
    width = plan.width if width is None else width
    positive(width=width)
    return plan, width


def _initialize(network: nn.Module) -> None:
    """Xavier uniform, gain √2 within residual branches, 1 elsewhere, no bias (the authors' code)."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _attention_place(sizes: list[int], pixels: int | None) -> int:
    """Index of the first block whose output is of that size; −1 for none."""
    if pixels is None:
        return -1
    if pixels not in sizes:
        near = min(sizes, key=lambda size: abs(size - pixels))
        listed = ", ".join(map(str, sorted(set(sizes))))
        raise ValueError(f"attention is {pixels}; the blocks have {listed} pixels: nearest {near}")
    return sizes.index(pixels)


class SnganGenerator(Generator):
    """``G(z, y=None) → images``: (n, latent_dim) to (n, 3, resolution, resolution) in [−1, 1].

    Args:
        resolution: image height and width in pixels, a key of ``PLANS``.
        width: channels that the table's multiples count; None: the table's own.
        latent_dim: length of z.
        num_classes: labels are 0 to num_classes − 1; 0: none are taken.
        upsample: how blocks double the image: "nearest" or "bilinear".
        attention: pixels of the image to which self-attention is added, by its height; None: to none.

    Raises:
        ValueError: a resolution, way of enlarging or attention it does not have, or a size below 1.
    """

    def __init__(
        self,
        resolution: int = 32,
        width: int | None = None,
        latent_dim: int = 128,
        num_classes: int = 0,
        upsample: Upsampling = "nearest",
        attention: int | None = None,
    ) -> None:
        super().__init__(resolution, latent_dim, num_classes)
        plan, width = _plan(resolution, width)
        known_choice(upsample, get_args(Upsampling), "upsample")
        channels = [width * multiple for multiple in plan.generator]
        norm = functools.partial(ClassBatchNorm, num_classes=num_classes) if num_classes else BatchNorm
        self.base = plan.base
        self.linear = nn.Linear(latent_dim, plan.base**2 * channels[0])
        self.blocks = nn.ModuleList(
            GeneratorBlock(wide, narrow, norm, upsample) for wide, narrow in itertools.pairwise(channels)
        )
        self.attention_after = _attention_place([plan.base << i for i in range(1, len(channels))], attention)
        self.attention = SelfAttention(channels[self.attention_after + 1]) if attention is not None else nn.Identity()
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)
        _initialize(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        h = self.linear(z).unflatten(1, (-1, self.base, self.base))
        h = h.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            h = block(h, y)
            if index == self.attention_after:
                h = self.attention(h)
        return torch.tanh(self.to_rgb(F.relu(self.norm(h))))


class SnganDiscriminator(Discriminator):
    """``D(x, y=None) → logits``: (n, 3, resolution, resolution) in [−1, 1] to (n,).

    Args:
        resolution, width, num_classes, attention: as of the generator.
        conditioning: what labels do, where there are classes. "projection": ``+⟨embed(y), h⟩`` in the logit (Miyato and
            Koyama 2018, section 3). "concat": the label's embedding becomes channels of a feature map, after the third
            block as in their code for 128, after the second at 32. "auxiliary": nothing, a second head classifies
            (Odena et al. 2017, arXiv 1610.09585); ``forward`` may then be called without labels.
        rectified_shortcuts: blocks' shortcuts see the block's input after its ReLU (torch-mimicry), not before.

    Raises:
        ValueError: a resolution, conditioning or attention it does not have, or a size below 1.
    """

    def __init__(
        self,
        resolution: int = 32,
        width: int | None = None,
        num_classes: int = 0,
        conditioning: Conditioning = "projection",
        attention: int | None = None,
        rectified_shortcuts: bool = False,
    ) -> None:
        super().__init__(resolution, num_classes)
        plan, width = _plan(resolution, width)
        known_choice(conditioning, get_args(Conditioning), "conditioning")
        self.conditioning = conditioning if num_classes else None
        self.rectified_shortcuts = rectified_shortcuts
        embedding_dim = max(1, EMBEDDING_DIM * width // plan.width)
        self.concat_after = plan.concat_after if self.conditioning == "concat" else None
        channels = [3, *(width * multiple for multiple in plan.discriminator)]
        blocks = []
        for index, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            seen = inputs + (embedding_dim if index == self.concat_after else 0)
            hidden = outputs if index == 0 else seen
            blocks.append(DiscriminatorBlock(seen, outputs, hidden, index < plan.halving, first=index == 0))
        self.blocks = nn.ModuleList(blocks)
        sizes = [resolution >> min(index + 1, plan.halving) for index in range(len(blocks))]
        self.attention_after = _attention_place(sizes, attention)
        self.attention = SelfAttention(channels[self.attention_after + 1]) if attention is not None else nn.Identity()
        self.linear = nn.Linear(channels[-1], 1)
        if self.conditioning == "auxiliary":
            self.classifier = nn.Linear(channels[-1], num_classes)
        elif self.conditioning:
            self.embedding = nn.Embedding(num_classes, channels[-1] if self.concat_after is None else embedding_dim)
            nn.init.xavier_uniform_(self.embedding.weight)
        _initialize(self)

    def check_labels(self, y: Tensor | None, n: int) -> None:
        """As every network's, but an auxiliary classifier needs none."""
        if y is not None or self.conditioning != "auxiliary":
            super().check_labels(y, n)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        h = self._features(x, y)
        logits = self.linear(h).squeeze(1)
        if self.conditioning == "projection":
            logits = logits + (self.embedding(y) * h).sum(1)
        return logits

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n,) and class logits (n, num_classes) in one pass.

        Raises ValueError unless the conditioning is "auxiliary".
        """
        if self.conditioning != "auxiliary":
            given = f"conditioning {self.conditioning!r}" if self.conditioning else "no classes"
            raise ValueError(f"class logits need conditioning 'auxiliary'; this discriminator has {given}")
        self.check(x, None)
        h = self._features(x, None)
        return self.linear(h).squeeze(1), self.classifier(h)

    def class_logits(self, x: Tensor) -> Tensor:
        """The auxiliary classifier's logits, (n, num_classes), before the softmax.

        Raises ValueError unless the conditioning is "auxiliary".
        """
        return self.heads(x)[1]

    def _features(self, x: Tensor, y: Tensor | None) -> Tensor:
        """What the heads see, (n, channels): summed over the pixels."""
        h = x
        for index, block in enumerate(self.blocks):
            if index == self.concat_after:
                h = torch.cat([h, self.embedding(y)[..., None, None].expand(-1, -1, *h.shape[2:])], 1)
            h = block(F.relu(h) if self.rectified_shortcuts and index else h)
            if index == self.attention_after:
                h = self.attention(h)
        return F.relu(h).sum((2, 3))


def sngan(
    resolution: int = 32,
    width: int | None = None,
    latent_dim: int = 128,
    num_classes: int = 0,
    conditioning: Conditioning = "projection",
    upsample: Upsampling = "nearest",
    rectified_shortcuts: bool = False,
) -> tuple[SnganGenerator, SnganDiscriminator]:
    """ResNet of Miyato et al. 2018, tables 4 to 6: resolutions 32, 48, 64, 128; with labels as Miyato and Koyama 2018.

    The arguments are ``SnganGenerator``'s and ``SnganDiscriminator``'s. Raises ValueError for those they do not have.
    """
    return (
        SnganGenerator(resolution, width, latent_dim, num_classes, upsample),
        SnganDiscriminator(resolution, width, num_classes, conditioning, None, rectified_shortcuts),
    )
