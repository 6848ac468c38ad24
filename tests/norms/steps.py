"""What tests of whole training steps share: which norms, a network under one, an update, its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import normalized_weights

SPECTRAL = ["sn", "ssn", "bsn", "bssn"]
NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in [*SPECTRAL, "wn", "wn-strict", "frobenius", "clip", "sigma-clamp"]},
    "bssn, γ per layer": ("bssn", {"gamma": "per-layer"}),
    "sn, γ shared": ("sn", {"gamma": "shared"}),
    "sn, operator": ("sn", {"operator": "conv"}),
}
EACH_SPECTRAL = pytest.mark.parametrize(
    "norm", [pytest.param(norm, marks=() if norm == "bssn" else pytest.mark.slow) for norm in SPECTRAL]
)


def each_norm(*quick: str) -> pytest.MarkDecorator:
    """One test for each norm, slow but for the quick ones."""
    named = [
        pytest.param(norm, id=name, marks=() if name in quick else pytest.mark.slow) for name, norm in NORMS.items()
    ]
    return pytest.mark.parametrize("norm", named)


def normalized(network: nn.Module, norm: tuple[str, dict[str, Any]]) -> nn.Module:
    poise.normalize(network.double(), norm[0], **norm[1])
    network(images())  # an operator norm needs the size of its input
    return network


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 4, 4, dtype=torch.float64)


def originals(network: nn.Module) -> list[Tensor]:
    return [weight.original for weight in normalized_weights(network)]


def update(network: nn.Module) -> None:
    """A step long enough that every round of power iteration shows."""
    with torch.no_grad():
        for weight in originals(network):
            weight.add_(torch.randn_like(weight) / 5)


def gradients(network: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found
