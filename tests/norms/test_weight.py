"""Weight normalization, strict and not, and the Frobenius norm, against explicit arithmetic and torch's own."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import poise
from poise.norms.weight import unit_norms

LAYERS: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Linear(5, 4),
    "bilinear": lambda: nn.Bilinear(3, 2, 4),
    "embedding": lambda: nn.Embedding(6, 3),
    "conv1d": lambda: nn.Conv1d(4, 6, 3, stride=2),
    "conv2d grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2),
    "conv3d": lambda: nn.Conv3d(2, 3, 2),
    "deconv1d": lambda: nn.ConvTranspose1d(4, 6, 4, stride=2),
    "deconv2d": lambda: nn.ConvTranspose2d(4, 6, (4, 3), stride=(2, 3)),
    "deconv2d grouped": lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, groups=2),
    "deconv3d": lambda: nn.ConvTranspose3d(2, 3, 2, stride=2),
}


@pytest.fixture(params=LAYERS, ids=list(LAYERS))
def layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]()


def unit_weights(layer, weight):
    """Every output unit's weights as a vector, by following the layer's own arithmetic: which weights feed output o."""
    if not isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return [weight[unit].flatten() for unit in range(len(weight))]
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return [
        weight[group * inputs : (group + 1) * inputs, unit].flatten()
        for group in range(layer.groups)
        for unit in range(outputs)
    ]


def original(layer):
    return layer.get_parameter("parametrizations.weight.original")


def test_unit_norms_are_the_lengths_of_output_units(layer):
    weight = layer.weight.detach().double()
    row_dim = 1 if hasattr(layer, "output_padding") and layer.transposed else 0
    norms = unit_norms(weight, row_dim, getattr(layer, "groups", 1)).expand_as(weight)
    wanted = [unit.norm() for unit in unit_weights(layer, weight)]
    for length, unit in zip(wanted, unit_weights(layer, norms), strict=True):
        torch.testing.assert_close(unit, length.expand_as(unit))


def test_wn_starts_as_the_layer_was_and_then_ignores_the_length_of_its_weight(layer):
    before = layer.weight.detach().clone()
    poise.normalize(layer, "wn")
    torch.testing.assert_close(layer.weight, before)
    with torch.no_grad():
        original(layer).mul_(7.0)
    torch.testing.assert_close(layer.weight, before)
    with torch.no_grad():
        layer.parametrizations.weight[0].gain.mul_(2.0)
    torch.testing.assert_close(layer.weight, 2 * before)


def test_wn_is_torchs_weight_norm_and_learns_like_it():
    torch.manual_seed(0)
    ours, theirs = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    theirs.load_state_dict(ours.state_dict())
    poise.normalize(ours, "wn")
    weight_norm(theirs, dim=0)
    optimizers = [torch.optim.SGD(layer.parameters(), 0.1) for layer in (ours, theirs)]
    for _ in range(20):
        x = torch.randn(2, 3, 5, 5)
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_strict_units_have_length_one_or_the_root_of_the_strides(layer):
    poise.normalize(layer, "wn-strict")
    assert getattr(layer, "bias", None) is None
    assert [name for name, _ in layer.named_parameters()] == ["parametrizations.weight.original"]
    squared = 1.0
    if getattr(layer, "transposed", False):
        for stride in layer.stride:
            squared *= stride
    for unit in unit_weights(layer, layer.weight.detach()):
        assert unit.square().sum().item() == pytest.approx(squared, rel=1e-5)


def test_the_stride_share_keeps_the_variance_of_a_strict_transposed_convolution():
    torch.manual_seed(0)
    layer = poise.normalize(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), "wn-strict")
    variance = layer(torch.randn(16, 64, 16, 16))[:, :, 2:-2, 2:-2].var().item()
    assert variance == pytest.approx(1.0, rel=0.05)


def test_frobenius_has_length_one_and_bounds_every_singular_value(layer):
    poise.normalize(layer, "frobenius")
    weight = layer.weight.detach()
    assert weight.norm().item() == pytest.approx(1.0, rel=1e-6)
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() <= 1 + 1e-6


@pytest.mark.parametrize("norm", ["wn", "wn-strict", "frobenius"])
def test_gradients_are_exact_to_second_order(norm):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 2).double()
    poise.normalize(layer, norm)
    step = layer.get_submodule("parametrizations.weight.0")
    weight = original(layer).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(step, (weight,))
    assert torch.autograd.gradgradcheck(step, (weight,))


@pytest.mark.parametrize("norm", ["wn", "wn-strict", "frobenius"])
def test_a_zero_weight_stays_zero_with_finite_gradient(norm):
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    poise.normalize(layer, norm)
    layer.weight.sum().backward()
    assert not layer.weight.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("norm", ["wn", "wn-strict", "frobenius"])
def test_baking_copying_and_loading_keep_the_weight(norm, layer):
    poise.normalize(layer, norm)
    twin = copy.deepcopy(layer)
    torch.nn.init.normal_(original(twin))
    twin.load_state_dict(layer.state_dict())
    weight = layer.weight.detach().clone()
    assert torch.equal(twin.weight, weight)
    poise.denormalize(layer)
    assert not hasattr(layer, "parametrizations")
    assert torch.equal(layer.weight, weight)
    assert torch.equal(twin.weight, weight)


@pytest.mark.parametrize("norm", ["wn", "wn-strict", "frobenius"])
def test_norms_are_measured_in_float32_under_autocast(norm):
    torch.manual_seed(0)
    layer = nn.Linear(64, 8)
    poise.normalize(layer, norm)
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer.weight
    assert torch.equal(inside, layer.weight)
