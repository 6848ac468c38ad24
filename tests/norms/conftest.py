"""What the tests of norms share: networks small enough to be normalized together, and the arithmetic done by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.norms import SpectralNorm, normalized_weights, out_dim


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def _equal_layers() -> nn.Sequential:
    convs = [part for _ in range(3) for part in (nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 6))


def _different_layers() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.ConvTranspose2d(4, 2, 3), nn.Tanh(), nn.Conv2d(2, 64, 4), nn.Flatten()),
        *(nn.Linear(64, 600), nn.Tanh(), nn.Linear(600, 6)),
    )


@pytest.fixture(params=[_equal_layers, _different_layers], ids=["equal layers", "different layers"])
def network(request: pytest.FixtureRequest) -> nn.Sequential:
    """From images 3×4×4 to 6 numbers."""
    return request.param()


@pytest.fixture
def equal_layers() -> Callable[[], nn.Sequential]:
    """Makes networks of which several small layers have one shape, and are normalized together."""
    return _equal_layers


def _by_hand(network: nn.Module, leaves: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    effective = {}
    for found in normalized_weights(network):
        norm: Any = found.normalization
        assert isinstance(norm, SpectralNorm)
        weight = found.original if leaves is None else leaves[found.name]
        out = out_dim(found.layer)
        values = dict(norm.named_buffers())
        sigmas = [
            values[f"u_{name}"] @ weight.movedim(dim, 0).flatten(1) @ values[f"v_{name}"]
            for name, dim in (("out", out), ("in", 1 - out))
            if f"u_{name}" in values
        ]
        effective[f"{found.name}.weight"] = norm.scale * weight / (torch.stack(sigmas).sum() / len(sigmas))
    return effective


@pytest.fixture
def by_hand() -> Callable[..., dict[str, Tensor]]:
    """The normalized weights, ``scale·W/σ`` with the vectors that the norms hold, written out plainly."""
    return _by_hand
