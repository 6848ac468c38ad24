"""Generators and discriminators by name: ``create(name, **options) → (G, D)``.

Every pair keeps one contract: ``G(z, y=None) → images (n, 3, H, W) in [−1, 1]``; ``D(x, y=None) → logits (n,)``;
``G.latent_dim``, ``G.num_classes`` (0: unconditional), ``G.resolution``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from poise.models.sngan_cnn import sngan_cnn
from poise.registry import Builders

MODELS: Builders[tuple[nn.Module, nn.Module]] = Builders("model", {"sngan-cnn": sngan_cnn})


def create(name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Build the pair (G, D) of an architecture.

    Args:
        name: a key of ``MODELS``.
        **options: the architecture's own: resolution (pixels), width (channels), latent_dim …

    Raises:
        ValueError: unknown name, option or resolution; the message names the nearest known one.
    """
    return MODELS.build(name, **options)
