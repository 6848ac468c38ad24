"""Our transposed convolution against torch's."""

from typing import Any

import pytest
import torch
from torch import nn

import poise
from poise.layers import ConvTranspose2d

KINDS: dict[str, dict[str, Any]] = {
    "doubling": {"kernel_size": 4, "stride": 2, "padding": 1},
    "grouped": {"kernel_size": 3, "stride": 2, "groups": 2, "output_padding": 1},
    "dilated": {"kernel_size": 3, "dilation": 2},
    "no bias": {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
}


def pair(**options: Any) -> tuple[nn.ConvTranspose2d, nn.ConvTranspose2d]:
    torch.manual_seed(0)
    ours, theirs = ConvTranspose2d(4, 6, **options).double(), nn.ConvTranspose2d(4, 6, **options).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def derivatives(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, a gradient penalty's first gradient, and its second ones."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    return [y, slope, *torch.autograd.grad(slope.square().sum() + y.sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_torchs_with_all_derivatives(kind: str) -> None:
    ours, theirs = pair(**KINDS[kind])
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    for found, expected in zip(derivatives(ours, x), derivatives(theirs, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_an_output_size_may_be_asked_for() -> None:
    ours, theirs = pair(kernel_size=3, stride=2)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x, output_size=[12, 12]), theirs(x, output_size=[12, 12]))


def test_autocast_keeps_its_type_and_the_biass_gradient_is_the_sum() -> None:
    ours: Any = ConvTranspose2d(4, 6, 4, stride=2, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(torch.randn(2, 4, 5, 5))
    assert y.dtype == torch.bfloat16
    grad = torch.randn_like(y)
    y.backward(grad)
    torch.testing.assert_close(ours.bias.grad, grad.float().sum((0, 2, 3)), rtol=0.02, atol=0.1)


def test_it_is_normalized_and_bounded_as_torchs() -> None:
    x = torch.ones(1, 4, 8, 8, dtype=torch.float64)
    outputs = []
    for layer in pair(kernel_size=4, stride=2, padding=1):
        torch.manual_seed(1)  # of the singular vectors' start
        outputs.append(poise.normalize(layer, "bssn")(x))
    torch.testing.assert_close(*outputs)
    bounds = [poise.lipschitz_bound(layer, (4, 6, 6)) for layer in pair(kernel_size=4, stride=2, padding=1)]
    assert bounds[0].upper == pytest.approx(bounds[1].upper, rel=1e-9)
