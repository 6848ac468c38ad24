"""Strict and affine weight-normalized layers and residual sums, against their formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.layers.weight_normalized import WeightedSum, affine, strict

LAYERS = {
    "linear": lambda: nn.Linear(6, 4),
    "conv": lambda: nn.Conv2d(6, 4, 4, stride=2, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1),
    "transposed-stride-1": lambda: nn.ConvTranspose2d(6, 4, 3, padding=1),
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def made(kind):
    """A layer, whose parts mypy need not know."""
    return LAYERS[kind]().double()


def weighted_sum(channels):
    return WeightedSum(channels)


def explicit(layer, x, weight, gain, bias):
    """The layer with every output unit's weights divided by their length, over the root of the strides' product."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    if isinstance(layer, nn.Linear):
        out = x @ (weight / weight.square().sum(1, keepdim=True).sqrt()).T
    elif isinstance(layer, nn.ConvTranspose2d):
        share, padding = layer.stride[0] * layer.stride[1], int(layer.padding[0])
        length = (weight.square().sum((0, 2, 3), keepdim=True) / share).sqrt()
        out = F.conv_transpose2d(x, weight / length, stride=layer.stride, padding=padding)
    else:
        length = weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        out = F.conv2d(x, weight / length, stride=layer.stride, padding=layer.padding)
    return gain.view(shape) * out + bias.view(shape)


def inputs(layer):
    return torch.randn(3, 6, *([] if isinstance(layer, nn.Linear) else [8, 8]), dtype=torch.float64)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_strict_layer_is_its_formula_whatever_the_length_of_its_weights(kind):
    layer = made(kind)
    weight, x = 7 * layer.weight.detach().clone(), inputs(layer)
    expected = explicit(layer, x, weight, torch.ones(4).double(), torch.zeros(4).double())
    assert strict(layer) is layer
    torch.testing.assert_close(layer(x), expected)
    assert layer.bias is None
    assert len(list(layer.parameters())) == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_an_affine_layer_begins_as_the_strict_one_and_learns_gain_and_bias(kind):
    layer = made(kind)
    weight, x = layer.weight.detach().clone(), inputs(layer)
    assert affine(layer) is layer
    one, zero = torch.ones(4).double(), torch.zeros(4).double()
    torch.testing.assert_close(layer(x), explicit(layer, x, weight, one, zero))
    factor, shift = torch.randn(4).double(), torch.randn(4).double()
    with torch.no_grad():
        gain = layer.parametrizations.weight[0].gain
        gain *= factor.view([-1 if size > 1 else 1 for size in gain.shape])
        layer.bias += shift
    torch.testing.assert_close(layer(x), explicit(layer, x, weight, factor, shift))
    assert len(list(layer.parameters())) == 3


def test_an_affine_layer_may_lack_its_bias():
    layer = affine(nn.Linear(6, 4, bias=False))
    assert layer.bias is None


def test_a_weighted_sum_is_at_first_the_shortcut_to_the_bit():
    sum_ = weighted_sum(5)
    residual, shortcut = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    assert torch.equal(sum_(1e6 * residual, shortcut), shortcut)


def test_a_weighted_sum_is_its_formula_and_so_are_its_gradients():
    sum_ = weighted_sum(5).double()
    a = torch.randn(2, 5, dtype=torch.float64)
    with torch.no_grad():
        sum_.weight.copy_(a)
    residual, shortcut = torch.randn(2, 2, 5, 4, 4, dtype=torch.float64)
    norm = (a[0] ** 2 + a[1] ** 2).sqrt()
    expected = (a[0] / norm)[:, None, None] * residual + (a[1] / norm)[:, None, None] * shortcut
    torch.testing.assert_close(sum_(residual, shortcut), expected)
    direction = torch.randn_like(expected)
    (sum_(residual, shortcut) * direction).sum().backward()
    # d(a₁/‖a‖)/da₁ = a₂²/‖a‖³ and d(a₂/‖a‖)/da₁ = −a₁a₂/‖a‖³
    of_residual, of_shortcut = (direction * residual).sum((0, 2, 3)), (direction * shortcut).sum((0, 2, 3))
    slope = (a[1] ** 2 * of_residual - a[0] * a[1] * of_shortcut) / norm**3
    torch.testing.assert_close(sum_.weight.grad[0], slope)


def test_a_weighted_sum_of_uncorrelated_maps_keeps_their_variance():
    sum_ = weighted_sum(2)
    with torch.no_grad():
        sum_.weight.copy_(torch.tensor([[3.0, -0.1], [4.0, 20.0]]))
    variance = sum_(torch.randn(16, 2, 64, 64), torch.randn(16, 2, 64, 64)).var(dim=(0, 2, 3))
    torch.testing.assert_close(variance, torch.ones(2), rtol=0.02, atol=0)


def test_a_weighted_sum_of_no_weight_has_finite_gradients():
    sum_ = weighted_sum(1)
    with torch.no_grad():
        sum_.weight.zero_()
    total = sum_(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).sum()
    total.backward()
    assert total.isfinite()
    assert sum_.weight.grad.isfinite().all()
