"""What every weight normalization here has in common, and which layers have a weight to normalize."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.spectra.operator import TRANSPOSED

NORMALIZED_LAYERS = (
    *(nn.Linear, nn.Bilinear, nn.Embedding),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED),
)


def out_dim(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its output units: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(layer, TRANSPOSED) else 0


def groups(layer: nn.Module) -> int:
    """How many groups a convolution's channels are in; 1 for every other layer."""
    return int(getattr(layer, "groups", 1))


def wide(weight: Tensor) -> Tensor:
    """The weight in float64 if it is that, else in float32: norms are not measured in fewer bits."""
    return weight if weight.dtype == torch.float64 else weight.float()


class Normalization(nn.Module):
    """A parametrization ``W ↦ normalized W`` put on by ``poise.normalize``; subclasses say which in ``forward``."""

    gamma = "none"
    """a learned scale on weight and bias: "none", "per-layer", or "shared" by all layers normalized together"""

    def settle(self, weight: Tensor) -> None:
        """Told that ``weight`` is the one this was built for, after registering it; for those that keep count."""
