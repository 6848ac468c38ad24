"""BigGAN, Brock et al. 2019 (arXiv 1809.11096), appendix B, figure 15 and tables 4 to 6.

Generator: linear to 4 × 4, residual blocks that double the image, batch norm, ReLU, 3×3 to RGB, tanh. One class
embedding, shared by all batch norms, is projected linearly to their gains and biases; the latent is split in chunks of
which the first enters the linear layer and each other one a block, beside the embedding (skip-z). Discriminator:
residual blocks, ReLU, sum over the pixels, linear to one logit plus the projection on a class embedding. Both attend to
themselves at 64 × 64. Weights are orthogonal at first.

Neither network has a spectral norm of its own; the paper has one on both, ``poise.normalize(network, "sn")``, of which
the generator's class embedding is left out, as by its first author's code.

The paper has 128, 256 and 512 pixels; 32 and 64 are those of its first author's PyTorch code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.layers import (
    BatchNorm,
    ClassBatchNorm,
    ConditionBatchNorm,
    DiscriminatorBlock,
    GeneratorBlock,
    SelfAttention,
)
from poise.models.network import Discriminator, Generator, known_resolution, positive

BASE = 4
"""height and width the generator begins with, pixels"""
CHUNK = 20
"""length of each part of the latent where it is split"""
ATTENTION = 64
"""height and width at which the networks attend to themselves, if they pass them"""


class Plan(NamedTuple):
    """Channels of one resolution, in multiples of the width.

    Attributes:
        generator: before each block, and after the last one.
        discriminator: after each block.
        halvings: how many blocks of the discriminator, from the first one on, halve the image.
    """

    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halvings: int


PLANS = {
    32: Plan((4, 4, 4, 4), (4, 4, 4, 4), 2),
    64: Plan((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4),
    128: Plan((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
    256: Plan((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),
    512: Plan((16, 16, 8, 8, 4, 2, 1, 1), (1, 1, 2, 4, 8, 8, 16, 16), 7),
}


def attended(attention: int | Sequence[int] | None, resolution: int) -> tuple[int, ...]:
    """The sizes at which to attend; raises ValueError for one that no feature map of either network has."""
    if attention is None:
        return (ATTENTION,)
    sizes = tuple(size for size in ([attention] if isinstance(attention, int) else attention) if size)
    known = [BASE << doublings for doublings in range((resolution // BASE).bit_length())]
    for size in sizes:
        if size not in known:
            near = min(known, key=lambda other: abs(other - size))
            listed = ", ".join(map(str, known))
            raise ValueError(
                f"attention is at {size} pixels; at resolution {resolution} allowed: {listed}; near: {near}"
            )
    return sizes


@torch.no_grad()
def make_orthogonal(network: nn.Module) -> None:
    """Orthogonal weights and zero biases, but for gains and biases per class, which begin at 1 and 0 (section 2)."""
    for module in network.modules():
        if isinstance(module, ClassBatchNorm):
            continue
        for layer in module.children():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding) and not layer.weight.is_meta:
                nn.init.orthogonal_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ClassEmbedding(nn.Module):
    """A vector for every class: labels (n,) to (n, dim). Where it conditions a generator, no norm is put on its table.

    Normalized, it was seen to cripple generators (the first author's PyTorch code).
    """

    unnormalized = True
    """``poise.normalize`` passes over it"""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes, dim)

    def forward(self, y: Tensor) -> Tensor:
        return self.table(y)


class BigGanGenerator(Generator):
    """``G(z, y=None) → images``: latents (n, latent_dim), labels (n,) to images (n, 3, resolution, resolution).

    Args:
        resolution: image height and width in pixels, 32, 64, 128, 256 or 512.
        width: the paper's ch: channels in units of which the table counts.
        latent_dim: length of z; None: 20 for the first layer and each block, or 128 if z is not split.
        num_classes: labels are 0 to num_classes − 1; 0: unconditional.
        embedding_dim: length of the shared class embedding.
        shared_embedding: gains and biases are linear in one class embedding; else each class has its own.
        skip_z: every block sees its part of z; else the first layer sees it whole.
        attention: sizes of feature maps, pixels, after which a self-attention stands; None: 64 where there is one; 0
            or (): nowhere.
        multiples: channels before each block and after the last, in units of the width; None: the table's.

    Raises:
        ValueError: a size that does not exist, a latent_dim that cannot be split evenly, or a split latent with gains
            per class, which have no place for it.
    """

    def __init__(
        self,
        resolution: int = 128,
        width: int = 96,
        latent_dim: int | None = None,
        num_classes: int = 1000,
        embedding_dim: int = 128,
        shared_embedding: bool = True,
        skip_z: bool = True,
        attention: int | Sequence[int] | None = None,
        multiples: Sequence[int] | None = None,
    ) -> None:
        plan = PLANS[known_resolution(resolution, PLANS, "biggan")]
        parts = len(plan.generator) if skip_z else 1
        super().__init__(resolution, latent_dim if latent_dim is not None else _latent_dim(parts), num_classes)
        positive(width=width, embedding_dim=embedding_dim)
        if self.latent_dim % parts:
            below = max(self.latent_dim // parts, 1) * parts
            raise ValueError(
                f"latent_dim is {self.latent_dim}; skip_z splits it among {parts} layers: nearest {below} or "
                f"{below + parts}"
            )
        if skip_z and num_classes and not shared_embedding:
            raise ValueError("skip_z needs shared_embedding: gains per class have no place for z; give skip_z=False")
        multiples = plan.generator if multiples is None else multiples
        if len(multiples) != len(plan.generator) or min(multiples) < 1:
            raise ValueError(
                f"multiples are {tuple(multiples)}; resolution {resolution} takes {len(plan.generator)}, from 1 on, as "
                f"{plan.generator}"
            )
        channels = [width * multiple for multiple in multiples]
        self.chunk = self.latent_dim // parts
        shared = shared_embedding and num_classes > 0
        self.embedding = ClassEmbedding(num_classes, embedding_dim) if shared else None
        norm = _batch_norm(num_classes, embedding_dim * shared + self.chunk * skip_z)
        self.linear = nn.Linear(self.chunk, BASE**2 * channels[0])
        self.blocks = nn.ModuleList(GeneratorBlock(i, o, norm) for i, o in itertools.pairwise(channels))
        sizes = attended(attention, resolution)
        self.attention = nn.ModuleDict(
            {
                str(index): SelfAttention(outputs)
                for index, outputs in enumerate(channels[1:])
                if BASE << (index + 1) in sizes
            }
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)
        make_orthogonal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(z, y)
        first, *chunks = z.split(self.chunk, 1)
        condition = y if self.embedding is None or y is None else self.embedding(y)
        h = self.linear(first).unflatten(1, (-1, BASE, BASE)).contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            seen = [part for part in (condition, *chunks[index : index + 1]) if part is not None]
            h = block(h, torch.cat(seen, 1) if len(seen) > 1 else next(iter(seen), None))
            if str(index) in self.attention:
                h = self.attention[str(index)](h)
        return torch.tanh(self.to_rgb(F.relu(self.norm(h))))


class BigGanDiscriminator(Discriminator):
    """``D(x, y=None) → logits``: images (n, 3, resolution, resolution) in [−1, 1], labels (n,) to logits (n,).

    Args:
        resolution, width, num_classes, attention: as the generator's.
        rectified_shortcuts: the shortcuts, too, see their block's input through a ReLU, as those of PyTorch-StudioGAN
            do; the paper's do not.
    """

    def __init__(
        self,
        resolution: int = 128,
        width: int = 96,
        num_classes: int = 1000,
        attention: int | Sequence[int] | None = None,
        rectified_shortcuts: bool = False,
    ) -> None:
        plan = PLANS[known_resolution(resolution, PLANS, "biggan")]
        super().__init__(resolution, num_classes)
        positive(width=width)
        self.rectified_shortcuts = rectified_shortcuts
        channels = [3, *(width * multiple for multiple in plan.discriminator)]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(i, o, hidden=o, downsample=index < plan.halvings, first=index == 0)
            for index, (i, o) in enumerate(itertools.pairwise(channels))
        )
        sizes = attended(attention, resolution)
        self.attention = nn.ModuleDict(
            {
                str(index): SelfAttention(outputs)
                for index, outputs in enumerate(channels[1 : plan.halvings + 1])
                if resolution >> (index + 1) in sizes
            }
        )
        self.linear = nn.Linear(channels[-1], 1)
        self.embedding = nn.Embedding(num_classes, channels[-1]) if num_classes else None
        make_orthogonal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.check(x, y)
        h = x.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            h = block(F.relu(h) if self.rectified_shortcuts and index else h)
            if str(index) in self.attention:
                h = self.attention[str(index)](h)
        features = F.relu(h).sum((2, 3))
        logits = self.linear(features).squeeze(1)
        return logits if self.embedding is None else logits + (self.embedding(y) * features).sum(1)


def _latent_dim(parts: int) -> int:
    return CHUNK * parts if parts > 1 else 128


def _batch_norm(num_classes: int, condition_dim: int) -> Callable[[int], nn.Module]:
    """The batch norm of a condition of that length, of a label (0), or of nothing."""
    if condition_dim:
        return partial(ConditionBatchNorm, condition_dim=condition_dim)
    return partial(ClassBatchNorm, num_classes=num_classes) if num_classes else BatchNorm


def biggan(
    resolution: int = 128,
    width: int = 96,
    latent_dim: int | None = None,
    num_classes: int = 1000,
    embedding_dim: int = 128,
    shared_embedding: bool = True,
    skip_z: bool = True,
    attention: int | Sequence[int] | None = None,
    multiples: Sequence[int] | None = None,
    rectified_shortcuts: bool = False,
) -> tuple[BigGanGenerator, BigGanDiscriminator]:
    """BigGAN of Brock et al. 2019, appendix B: resolutions 32, 64, 128, 256 and 512.

    Arguments and errors are those of the two networks.
    """
    generator = BigGanGenerator(
        *(resolution, width, latent_dim, num_classes, embedding_dim, shared_embedding, skip_z, attention, multiples)
    )
    return generator, BigGanDiscriminator(resolution, width, num_classes, attention, rectified_shortcuts)
