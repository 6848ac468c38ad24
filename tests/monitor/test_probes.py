"""Probes against autograd's gradients and exact singular values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import poise
from poise.monitor import SpectrumProbe, UpdateProbe, gradient_norms, gradient_variances, weights

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


def test_gradient_variance_is_that_of_the_entries() -> None:
    module = mixture()
    forward(module).backward()
    for name, variance in gradient_variances(module).items():
        gradient = original(module.get_submodule(name)).grad
        assert gradient is not None
        assert variance.item() == pytest.approx(gradient.double().var(correction=0).item(), rel=1e-3)


def test_updates_are_the_movement_a_step_beside_the_weight() -> None:
    module, probe = mixture("bssn"), UpdateProbe()
    assert probe.measure(module, 10) == {}
    before = {name: original(module.get_submodule(name)).detach().double().clone() for name in LAYERS}
    for name in LAYERS:
        original(module.get_submodule(name)).data.mul_(1.5)
    original(module.get_submodule("head")).data.add_(0.01)
    found = probe.measure(module, 14)
    assert found.keys() == LAYERS
    for name in LAYERS:
        moved = original(module.get_submodule(name)).detach().double() - before[name]
        assert found[name].item() == pytest.approx((moved.norm() / before[name].norm() / 4).item(), rel=1e-4)


def test_updates_of_large_weights_are_measured_on_a_sample() -> None:
    torch.manual_seed(0)
    layer, probe = nn.Linear(300, 200), UpdateProbe()
    probe.measure(layer, 0)
    before = layer.weight.detach().clone()
    layer.weight.data.add_(0.01 * torch.randn(200, 300))
    expected = ((layer.weight - before).norm() / before.norm()).item()
    assert probe.measure(layer, 1)[""].item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("norm", ["none", "bssn"])
def test_spectra_are_those_of_the_reshaped_weights(norm: str) -> None:
    module = mixture(norm)
    found = SpectrumProbe(module).measure(module)
    assert found["sigma"].keys() == LAYERS
    for name in LAYERS:
        rows = as_rows(original(module.get_submodule(name)), 1 if name == "deconv" else 0)
        exact = np.linalg.svd(rows, compute_uv=False)
        top = found["singular_values"][name]
        np.testing.assert_allclose(top.numpy(), exact[: len(top)], rtol=2e-3)
        assert found["sigma"][name].item() == top[0].item()
        if len(exact) > 2:
            expected = (rows**2).sum() / exact[0] ** 2
            assert found["stable_rank"][name].item() == pytest.approx(expected, rel=5e-3)
    assert ("deconv" in found["stable_rank"]) is False  # two units: nothing to lose
    assert ("effective_sigma" in found) is (norm == "bssn")


@pytest.mark.parametrize("norm", ["sn", "bssn", "wn"])
def test_effective_sigma_is_that_of_the_weight_in_use(norm: str) -> None:
    module = mixture(norm).eval()
    used = SpectrumProbe(module).measure(module)["effective_sigma"]
    assert used.keys() <= LAYERS
    for name, sigma in used.items():
        weight = module.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        assert sigma.item() == pytest.approx(largest(weight, 1 if name == "deconv" else 0), rel=2e-3), name


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8, 1e17])
def test_sigma_is_right_at_any_scale(scale: float) -> None:
    layer = layer_of(scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    found = SpectrumProbe(layer).measure(layer)["sigma"][""]
    assert found.item() == pytest.approx(largest(original(layer)), rel=1e-3)


def test_a_network_without_weights_has_no_spectrum() -> None:
    module = nn.Sequential(nn.ReLU(), nn.Flatten())
    assert SpectrumProbe(module).measure(module) == {}


@pytest.mark.parametrize("wrap", ["weight_norm", "spectral_norm", "orthogonal"])
def test_networks_under_torchs_own_parametrizations_can_be_probed(wrap: str) -> None:
    layer = getattr(torch.nn.utils.parametrizations, wrap)(nn.Linear(4, 4))
    layer(torch.ones(1, 4)).sum().backward()
    assert all(sigma > 0 for sigma in SpectrumProbe(layer).measure(layer)["sigma"].values())
    assert all(norm.isfinite() for norm in gradient_norms(layer).values())


@pytest.mark.parametrize("norm", NORMS)
def test_probing_leaves_the_module_and_the_random_state_alone(norm: str) -> None:
    module = mixture(norm)
    forward(module).backward()
    before = copy.deepcopy(module.state_dict()), [copy.deepcopy(p.grad) for p in module.parameters()]
    random = torch.get_rng_state()
    probe, updates = SpectrumProbe(module), UpdateProbe()
    for step in range(2):
        probe.measure(module)
        updates.measure(module, step)
    gradient_norms(module)
    torch.testing.assert_close(module.state_dict(), before[0], rtol=0, atol=0)
    torch.testing.assert_close([p.grad for p in module.parameters()], before[1], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_vectors_of_a_state_are_not_those_that_go_on_changing() -> None:
    module = mixture()
    probe = SpectrumProbe(module)
    probe.measure(module)
    state = probe.state_dict()
    before = copy.deepcopy(state)
    other = SpectrumProbe(module)
    other.load_state_dict(state)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    probe.measure(module)
    other.measure(module)
    for name, vectors in before.items():
        assert all(torch.equal(state[name][layer], basis) for layer, basis in vectors.items())
