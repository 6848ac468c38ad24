"""Probes against autograd's gradients and exact singular values."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import poise
from poise.monitor import SigmaProbe, gradient_norms, weights
from poise.norms import normalized_weights

NORMS = ["none", "sn", "bssn"]


class Mixture(nn.Module):
    """One of each kind of layer: images (n, 3, 4, 4) and labels to numbers (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.deconv = nn.ConvTranspose2d(5, 2, 2, stride=2)
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(2 * 8 * 8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.deconv(self.norm(self.conv(x)).relu())
        return (self.head(h.flatten(1)) * self.embedding(y)).sum(1)


LAYERS = {"conv", "deconv", "embedding", "head"}


def mixture(norm: str = "none") -> nn.Module:
    torch.manual_seed(0)
    return poise.normalize(Mixture(), norm)


def forward(module: nn.Module) -> Tensor:
    torch.manual_seed(1)
    return module(torch.randn(6, 3, 4, 4), torch.arange(6)).sum()


def original(layer: nn.Module) -> Tensor:
    """A layer's trained weight, before any norm."""
    return dict(layer.named_parameters()).get("parametrizations.weight.original", layer.weight)  # type: ignore[arg-type]


def as_rows(weight: Tensor, row_dim: int) -> np.ndarray:
    return np.moveaxis(weight.detach().double().numpy(), row_dim, 0).reshape(weight.shape[row_dim], -1)


def largest(weight: Tensor, row_dim: int = 0) -> float:
    return float(np.linalg.svd(as_rows(weight, row_dim), compute_uv=False)[0])


def layer_of(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    return layer


@pytest.mark.parametrize("norm", NORMS)
def test_weights_are_the_trained_ones_of_two_dimensions_and_more(norm: str) -> None:
    module = mixture(norm)
    found = weights(module)
    assert found.keys() == LAYERS
    assert all(weight is original(module.get_submodule(name)) for name, (weight, _) in found.items())
    assert {name: dim for name, (_, dim) in found.items() if dim} == {"deconv": 1}


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_norms_are_autograds(norm: str) -> None:
    module = mixture(norm)
    forward(module).backward()
    trained = {name: original(module.get_submodule(name)) for name in LAYERS}
    expected = torch.autograd.grad(forward(module), list(trained.values()))
    found = gradient_norms(module)
    assert found.keys() == LAYERS
    for name, gradient in zip(trained, expected, strict=True):
        assert found[name].item() == pytest.approx(gradient.double().norm().item(), rel=1e-4)


def test_layers_without_a_gradient_are_left_out() -> None:
    module = mixture()
    assert gradient_norms(module) == {}
    module.get_submodule("conv").requires_grad_(False)
    forward(module).backward()
    assert gradient_norms(module).keys() == LAYERS - {"conv"}


def test_sigma_of_plain_layers_is_the_largest_singular_value() -> None:
    module = mixture()
    probe = SigmaProbe(module)
    for _ in range(300):
        found = probe.measure(module)
    assert found.keys() == LAYERS
    for name, sigma in found.items():
        weight = original(module.get_submodule(name))
        assert sigma.item() == pytest.approx(largest(weight, 1 if name == "deconv" else 0), rel=1e-3), name


@pytest.mark.parametrize("norm", ["sn", "ssn", "bsn", "bssn"])
def test_sigma_of_normalized_weights_is_what_their_norm_divides_by(norm: str) -> None:
    module = mixture(norm)
    probe = SigmaProbe(module)
    for _ in range(80):  # an edit of the weights, even one that changes nothing, has the norm iterate once
        for normalized in normalized_weights(module):
            layer = normalized.layer
            original(layer).data.mul_(1)
            torch.autograd.graph.increment_version(original(layer))
        forward(module)
    found = probe.measure(module)
    assert found.keys() == LAYERS
    for name, sigma in found.items():
        weight = original(module.get_submodule(name))
        out, both = largest(weight, 1 if name == "deconv" else 0), (largest(weight, 0) + largest(weight, 1)) / 2
        expected = both if norm.startswith("b") and weight.ndim > 2 else out
        assert sigma.item() == pytest.approx(expected, rel=1e-3), name


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_sigma_rises_to_the_truth_and_never_above_it(rows: int, columns: int, seed: int) -> None:
    layer = layer_of(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    probe = SigmaProbe(layer, initial_rounds=1)
    found = [probe.measure(layer)[""].item() for _ in range(10)]
    slack = 1e-5 * largest(original(layer))
    assert all(later >= earlier - slack for earlier, later in itertools.pairwise(found))
    assert found[-1] <= largest(original(layer)) + slack


def test_sigma_follows_a_weight_that_changes() -> None:
    layer = layer_of(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    probe = SigmaProbe(layer, initial_rounds=100)
    for step in range(30):
        original(layer).data.add_(0.01 * torch.randn(6, 5, generator=torch.Generator().manual_seed(step)))
        found = probe.measure(layer)[""].item()
    assert found == pytest.approx(largest(original(layer)), rel=0.01)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8, 1e20, 1e30])
def test_sigma_is_right_at_any_scale(scale: float) -> None:
    """Also of weights whose squares overflow float32: an exploding layer must not look like a vanished one."""
    layer = layer_of(scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    assert SigmaProbe(layer, 200).measure(layer)[""].item() == pytest.approx(largest(original(layer)), rel=1e-3)


@pytest.mark.parametrize(
    "weight", [[[1.0, -2.0], [-1.0, 2.0]], [[3.0], [-3.0]]], ids=["opposite rows", "opposite logits"]
)
def test_sigma_is_found_from_rows_that_sum_to_zero(weight: list[list[float]]) -> None:
    layer = layer_of(torch.tensor(weight))
    assert SigmaProbe(layer).measure(layer)[""].item() == pytest.approx(largest(original(layer)), rel=1e-3)


def test_sigma_of_a_zero_weight_is_zero_until_it_moves() -> None:
    layer = layer_of(torch.zeros(3, 4))
    probe = SigmaProbe(layer)
    assert probe.measure(layer)[""].item() == 0
    original(layer).data = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(100):
        found = probe.measure(layer)[""].item()
    assert found == pytest.approx(largest(original(layer)), rel=1e-3)


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm", "orthogonal"])
def test_networks_under_torchs_own_parametrizations_can_be_probed(wrap: str) -> None:
    layer = getattr(torch.nn.utils.parametrizations, wrap)(nn.Linear(4, 4))
    layer(torch.ones(1, 4)).sum().backward()
    assert all(sigma > 0 for sigma in SigmaProbe(layer).measure(layer).values())
    assert all(norm.isfinite() for norm in gradient_norms(layer).values())


@pytest.mark.parametrize("norm", NORMS)
def test_probing_leaves_the_module_and_the_random_state_alone(norm: str) -> None:
    module = mixture(norm)
    forward(module).backward()
    before = copy.deepcopy(module.state_dict()), [copy.deepcopy(p.grad) for p in module.parameters()]
    random = torch.get_rng_state()
    probe = SigmaProbe(module)
    probe.measure(module)
    gradient_norms(module)
    torch.testing.assert_close(module.state_dict(), before[0], rtol=0, atol=0)
    torch.testing.assert_close([p.grad for p in module.parameters()], before[1], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
