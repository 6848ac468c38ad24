"""A learned scale γ on what is normalized: the γ forms of Lin et al. 2021, on weight and bias, by layer or shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

GAMMAS = ("none", "per-layer", "shared")


class Gain(nn.Module):
    """Parametrization ``x ↦ γ·x``; several may hold one γ.

    Args:
        gamma: a scalar parameter.
        group: all gains that hold it; this one joins them.
    """

    def __init__(self, gamma: nn.Parameter, group: list[Gain]) -> None:
        super().__init__()
        self.gamma = gamma
        self.group = group
        group.append(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x

    def begin_anew(self, _: Tensor) -> None:
        """Told that what is scaled was filled anew: γ = 1."""
        self.gamma.fill_(1.0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Gain:
        before = self.gamma
        super()._apply(fn, recurse)
        self._give_to_all(before)
        return self

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        before = self.gamma
        super()._load_from_state_dict(*arguments, **named)
        self._give_to_all(before)

    def _give_to_all(self, before: nn.Parameter) -> None:
        """Where a new parameter was made, by ``to_empty`` or ``load_state_dict(assign=True)``, the group gets it."""
        for other in self.group:
            if other.gamma is before:
                other.gamma = self.gamma


def check_gamma(gamma: str) -> None:
    """Raise ValueError unless ``gamma`` is one of "none", "per-layer", "shared"."""
    if gamma not in GAMMAS:
        raise ValueError(f"gamma is {gamma!r}; allowed: {', '.join(map(repr, GAMMAS))}")


def new_gamma(like: Tensor) -> nn.Parameter:
    """γ = 1, on the weight's device and of its type."""
    return nn.Parameter(torch.ones((), device=like.device, dtype=like.dtype))
