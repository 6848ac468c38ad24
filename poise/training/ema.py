"""Exponential moving average of the generator, the network that is sampled and judged (Karras et al. 2018)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A copy of ``module`` whose weights follow it: ``e ← e + (1 − β)(w − e)``, β = 2^(−1/half_life).

    β starts low, (1 + step)/(10 + step), so that the first weights are soon forgotten. Batch norm's running statistics
    are averaged like weights; whole numbers are copied, and so are a normalized generator's singular vectors: a mean of
    unit vectors is none.

    Args:
        module: the network followed.
        half_life: steps after which a weight counts half.
        start: steps during which the copy is the network itself.
    """

    def __init__(self, module: nn.Module, half_life: float, start: int = 0) -> None:
        self.half_life, self.start = half_life, start
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        weights = sum(1 for _ in module.parameters())
        buffers = [name for name, _ in module.named_buffers()]
        self._averaged = [
            i
            for i, value in enumerate(_tensors(module))
            if value.is_floating_point() and (i < weights or "parametrizations." not in buffers[i - weights])
        ]

    def decay(self, step: int) -> float:
        """β at a step, in [0, 1)."""
        since = step - self.start
        if since <= 0 < self.start:
            return 0.0
        return min(2 ** (-1 / self.half_life), (1 + since) / (10 + since))

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follow ``module`` after its step number ``step``."""
        averages, values = _tensors(self.module), _tensors(module)
        floating = self._averaged
        torch._foreach_lerp_(
            [averages[i] for i in floating], [values[i].detach() for i in floating], 1 - self.decay(step)
        )
        for i in set(range(len(values))) - set(floating):
            averages[i].copy_(values[i])


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
