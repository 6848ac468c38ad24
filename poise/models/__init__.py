"""Generators and discriminators by name: ``create(name, **options) → (G, D)``.

Every pair keeps one contract: ``G(z, y=None) → images (n, 3, H, W) in [−1, 1]``; ``D(x, y=None) → logits (n,)``;
``G.latent_dim``, ``G.num_classes`` (0: unconditional), ``G.resolution``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from poise.models.biggan import biggan
from poise.models.biggan_deep import biggan_deep
from poise.models.dcgan import dcgan
from poise.models.mlp import mlp
from poise.models.r3gan import r3gan
from poise.models.sagan import sagan
from poise.models.sizes import Sizes, sizes
from poise.models.sngan import sngan
from poise.models.sngan_cnn import sngan_cnn
from poise.models.wngan import wngan
from poise.norms import NORMS, normalize
from poise.registry import Builders

__all__ = ["MODELS", "Sizes", "create", "sizes"]

MODELS: Builders[tuple[nn.Module, nn.Module]] = Builders(
    "model",
    {
        "mlp": mlp,
        "dcgan": dcgan,
        "sngan-cnn": sngan_cnn,
        "sngan": sngan,
        "wngan": wngan,
        "sagan": sagan,
        "biggan": biggan,
        "biggan-deep": biggan_deep,
        "r3gan": r3gan,
    },
)


def create(
    name: str,
    *,
    norm: str | Mapping[str, Any] | None = None,
    g_norm: str | Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[nn.Module, nn.Module]:
    """Build the pair (G, D) of an architecture.

    Args:
        name: a key of ``MODELS``.
        norm: weight normalization put on the discriminator, a key of ``poise.norms.NORMS``, or a mapping of its
            ``name`` and options: ``{"name": "bssn", "scale": 1.4}``. None: the plain network.
        g_norm: likewise, on the generator (Zhang et al. 2018 and Brock et al. 2019 normalize both).
        **options: the architecture's own: resolution (pixels), width (channels), latent_dim …

    Raises:
        ValueError: unknown name, option or resolution; the message names the nearest known one.
    """
    for chosen in (norm, g_norm):  # before anything is built
        NORMS.check(*_choice(chosen or "none"))
    generator, discriminator = MODELS.build(name, **options)
    for network, chosen in ((generator, g_norm), (discriminator, norm)):
        if chosen:
            choice, settings = _choice(chosen)
            normalize(network, choice, **settings)
    return generator, discriminator


def _choice(norm: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A norm's name and options."""
    if isinstance(norm, str):
        return norm, {}
    if "name" not in norm:
        raise ValueError(
            f"norm is {dict(norm)}; needed: a name, or a mapping with the key 'name' and the norm's options"
        )
    return norm["name"], {key: value for key, value in norm.items() if key != "name"}
