"""A learned scale γ on what is normalized: the γ forms of Lin et al. 2021, on weight and bias, by layer or shared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GAMMAS = ("none", "per-layer", "shared")


class Gain(nn.Module):
    """Parametrization ``x ↦ γ·x``; one stands in every place that shares its γ, or ``to_empty`` would part them.

    Args:
        gamma: a scalar parameter.
    """

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


def check_gamma(gamma: str) -> None:
    """Raise ValueError unless ``gamma`` is one of "none", "per-layer", "shared"."""
    if gamma not in GAMMAS:
        raise ValueError(f"gamma is {gamma!r}; allowed: {', '.join(map(repr, GAMMAS))}")


def new_gamma(like: Tensor) -> nn.Parameter:
    """γ = 1, on the weight's device and of its type."""
    return nn.Parameter(torch.ones((), device=like.device, dtype=like.dtype))
