"""BigGAN-deep, Brock et al. 2019 (arXiv 1809.11096), appendix B, figure 16 and tables 7 to 9.

Bottleneck blocks: 1×1 to a quarter of the channels, two 3×3, 1×1 back; the shortcuts have no weights, or only those of
the channels to be added: the generator drops channels, the discriminator appends some. Two blocks to each size of the
image, of which the generator's second and the discriminator's first change it. The latent is not split: beside the
class embedding it enters the first layer and every batch norm. Both attend to themselves at 64 × 64. Weights are
orthogonal at first. No spectral norm of their own; the paper has one on both (see ``poise.models.biggan``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.layers import ConditionBatchNorm, SelfAttention
from poise.layers.resampling import doubled_conv
from poise.layers.residual import Norm
from poise.models.biggan import BASE, ClassEmbedding, attended, make_orthogonal
from poise.models.network import Discriminator, Generator, known_resolution, positive

REDUCTION = 4
"""channels of a block in those of its middle"""

PLANS = {
    128: ((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16)),
    256: ((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16)),
    512: ((16, 16, 8, 8, 4, 2, 1, 1), (1, 1, 2, 4, 8, 8, 16, 16)),
}
"""resolution ↦ channels of the generator and of the discriminator, before the first pair of blocks and after each, in
multiples of the width"""


class DeepGeneratorBlock(nn.Module):
    """Four times norm, ReLU, convolution, beside the first ``outputs`` channels: (n, inputs, H, W) → (n, outputs, …).

    Args:
        inputs, outputs: channels; not more outputs than inputs.
        norm: makes the batch norms.
        upsample: whether the image is doubled, to the nearest pixel.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, upsample: bool = False) -> None:
        super().__init__()
        hidden = inputs // REDUCTION
        self.outputs, self.upsample = outputs, upsample
        self.norm1, self.norm2, self.norm3, self.norm4 = norm(inputs), norm(hidden), norm(hidden), norm(hidden)
        self.conv1 = nn.Conv2d(inputs, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv4 = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, condition)))
        h = F.relu(self.norm2(h, condition))
        h = doubled_conv(self.conv2, h) if self.upsample else self.conv2(h)
        h = self.conv3(F.relu(self.norm3(h, condition)))
        h = self.conv4(F.relu(self.norm4(h, condition)))
        return h + self._enlarged(x[:, : self.outputs])

    def _enlarged(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2) if self.upsample else x


class DeepDiscriminatorBlock(nn.Module):
    """Four times ReLU, convolution, beside the input with channels appended: (n, inputs, H, W) → (n, outputs, …).

    Args:
        inputs, outputs: channels; not fewer outputs than inputs.
        downsample: whether the image is halved, before the last convolution.
    """

    def __init__(self, inputs: int, outputs: int, downsample: bool = False) -> None:
        super().__init__()
        hidden = outputs // REDUCTION
        self.downsample = downsample
        self.conv1 = nn.Conv2d(inputs, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv3 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.conv4 = nn.Conv2d(hidden, outputs, 1)
        self.appended = nn.Conv2d(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(F.relu(x))))
        h = self.conv4(self._halved(F.relu(self.conv3(F.relu(h)))))
        x = self._halved(x)
        return h + (x if self.appended is None else torch.cat([x, self.appended(x)], 1))

    def _halved(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.downsample else x


class BigGanDeepGenerator(Generator):
    """``G(z, y=None) → images``: latents (n, latent_dim), labels (n,) to images (n, 3, resolution, resolution).

    Args:
        resolution: image height and width in pixels, 128, 256 or 512.
        width: the paper's ch: channels in units of which the table counts, a multiple of 4.
        latent_dim: length of z.
        num_classes: labels are 0 to num_classes − 1; 0: unconditional.
        embedding_dim: length of the class embedding, which stands before z.
        attention: sizes of feature maps, pixels, after which a self-attention stands; None: 64; 0 or (): nowhere.

    Raises:
        ValueError: a size that does not exist.
    """

    def __init__(
        self,
        resolution: int = 128,
        width: int = 128,
        latent_dim: int = 128,
        num_classes: int = 1000,
        embedding_dim: int = 128,
        attention: int | Sequence[int] | None = None,
    ) -> None:
        multiples, _ = PLANS[known_resolution(resolution, PLANS, "biggan-deep")]
        super().__init__(resolution, latent_dim, num_classes)
        positive(embedding_dim=embedding_dim)
        channels = [_known_width(width) * multiple for multiple in multiples]
        self.embedding = ClassEmbedding(num_classes, embedding_dim) if num_classes else None
        condition_dim = latent_dim + (embedding_dim if num_classes else 0)
        norm = partial(ConditionBatchNorm, condition_dim=condition_dim)
        self.linear = nn.Linear(condition_dim, BASE**2 * channels[0])
        self.blocks = nn.ModuleList()
        self.attention = nn.ModuleDict()
        sizes = attended(attention, resolution)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            self.blocks.append(DeepGeneratorBlock(inputs, inputs, norm))
            self.blocks.append(DeepGeneratorBlock(inputs, outputs, norm, upsample=True))
            if BASE << (index + 1) in sizes:
                self.attention[str(len(self.blocks) - 1)] = SelfAttention(outputs)
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)
        make_orthogonal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        condition = z if self.embedding is None else torch.cat([self.embedding(y), z], 1)
        h = self.linear(condition).unflatten(1, (-1, BASE, BASE)).contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            h = block(h, condition)
            if str(index) in self.attention:
                h = self.attention[str(index)](h)
        return torch.tanh(self.to_rgb(F.relu(self.norm(h))))


class BigGanDeepDiscriminator(Discriminator):
    """``D(x, y=None) → logits``: images (n, 3, resolution, resolution) in [−1, 1], labels (n,) to logits (n,).

    Args:
        resolution, width, num_classes, attention: as the generator's.
    """

    def __init__(
        self,
        resolution: int = 128,
        width: int = 128,
        num_classes: int = 1000,
        attention: int | Sequence[int] | None = None,
    ) -> None:
        _, multiples = PLANS[known_resolution(resolution, PLANS, "biggan-deep")]
        super().__init__(resolution, num_classes)
        channels = [_known_width(width) * multiple for multiple in multiples]
        self.from_rgb = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        self.attention = nn.ModuleDict()
        sizes = attended(attention, resolution)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            self.blocks.append(DeepDiscriminatorBlock(inputs, outputs, downsample=True))
            self.blocks.append(DeepDiscriminatorBlock(outputs, outputs))
            if resolution >> (index + 1) in sizes:
                self.attention[str(len(self.blocks) - 1)] = SelfAttention(outputs)
        self.linear = nn.Linear(channels[-1], 1)
        self.embedding = nn.Embedding(num_classes, channels[-1]) if num_classes else None
        make_orthogonal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        h = self.from_rgb(x.contiguous(memory_format=torch.channels_last))
        for index, block in enumerate(self.blocks):
            h = block(h)
            if str(index) in self.attention:
                h = self.attention[str(index)](h)
        features = F.relu(h).sum((2, 3))
        logits = self.linear(features).squeeze(1)
        return logits if self.embedding is None else logits + (self.embedding(y) * features).sum(1)


def _known_width(width: int) -> int:
    if width < 1 or width % REDUCTION:
        near = max(REDUCTION, round(width / REDUCTION) * REDUCTION)
        raise ValueError(f"width is {width}; bottlenecks need a multiple of {REDUCTION}: nearest {near}")
    return width


def biggan_deep(
    resolution: int = 128,
    width: int = 128,
    latent_dim: int = 128,
    num_classes: int = 1000,
    embedding_dim: int = 128,
    attention: int | Sequence[int] | None = None,
) -> tuple[BigGanDeepGenerator, BigGanDeepDiscriminator]:
    """BigGAN-deep of Brock et al. 2019, appendix B: resolutions 128, 256 and 512.

    Arguments and errors are those of the two networks.
    """
    generator = BigGanDeepGenerator(resolution, width, latent_dim, num_classes, embedding_dim, attention)
    return generator, BigGanDeepDiscriminator(resolution, width, num_classes, attention)
