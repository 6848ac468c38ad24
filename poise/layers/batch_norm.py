"""Batch normalization whose gain and bias depend on a class or on a vector.

All take the condition as a second argument, so that a block need not know which one it was given. Each holds a
``torch.nn.BatchNorm2d``, which ``poise.layers.cross_replica`` makes cross-replica.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Plain batch norm, learned gain and bias; the condition is not looked at."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.norm(x)


class ClassBatchNorm(nn.Module):
    """A gain and a bias for every class: ``γ_y·x̂ + β_y`` (Dumoulin et al. 2017; Miyato and Koyama 2018).

    Args:
        channels: of the input, (n, channels, H, W).
        num_classes: labels are 0 to num_classes − 1, int64 (n,).
    """

    unnormalized = True
    """``poise.normalize`` passes over the tables, as the authors do: a gain divided by its table's σ is no gain of 1"""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = nn.Embedding(num_classes, channels), nn.Embedding(num_classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return _modulated(self.norm(x), self.gain(y), self.bias(y))


class ConditionBatchNorm(nn.Module):
    """Gain and bias as linear functions of a vector: ``(1 + Ac)·x̂ + Bc`` (Brock et al. 2019, appendix B).

    Args:
        channels: of the input, (n, channels, H, W).
        condition_dim: length of c: a shared class embedding, with a part of the latent beside it.
    """

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(condition_dim, channels, bias=False)
        self.bias = nn.Linear(condition_dim, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return _modulated(self.norm(x), 1 + self.gain(condition), self.bias(condition))


def _modulated(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(bias[..., None, None], x, gain[..., None, None])
