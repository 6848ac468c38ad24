"""Measures on predicted classes: mode coverage, KL to the data's modes, and the Inception-style score."""

from __future__ import annotations

import torch
from torch import Tensor


def modes_covered(counts: Tensor) -> int:
    """Number of modes with at least one sample; ``counts``: samples per mode, (modes,)."""
    return int((counts > 0).sum())


def mode_kl(counts: Tensor, data: Tensor) -> float:
    """``KL(generated ‖ data)`` between mode distributions, in nats (Metz et al. 2017, section 3.3.1).

    Args:
        counts: samples per mode, (modes,).
        data: probability of each mode in the data, (modes,). A generated mode that the data lacks gives infinity.
    """
    generated = counts.double() / counts.sum()
    return torch.where(generated > 0, generated * (generated / data).log(), torch.zeros_like(generated)).sum().item()


class ClassScore:
    """``exp E KL(p(y|x) ‖ p(y))``, the Inception score's formula (Salimans et al. 2016) for any classifier, streamed.

    Uses ``E KL = H(E p) − E H(p)``: only the mean prediction and the mean entropy are kept.
    """

    def __init__(self, classes: int) -> None:
        self.n = 0
        self._sum = torch.zeros(classes, dtype=torch.float64)
        self._entropy = 0.0

    def add(self, probabilities: Tensor) -> None:
        """Take in p(y|x) of shape (n, classes), rows summing to 1."""
        p = probabilities.detach().cpu().double()
        self.n += len(p)
        self._sum += p.sum(0)
        self._entropy += torch.special.entr(p).sum().item()

    @property
    def marginal(self) -> Tensor:
        """p(y), float64 (classes,)."""
        return self._sum / self.n

    @property
    def value(self) -> float:
        """Between 1 and the number of classes."""
        marginal = torch.special.entr(self.marginal).sum()
        return (marginal - self._entropy / self.n).exp().item()
