"""Writing over what a layer made changes nothing that anybody can see."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poise
from poise.layers.activation import rectified
from poise.layers.transposed import ConvTranspose2d

MAKERS: dict[str, Callable[[], list[Any]]] = {
    "convolution": lambda: [nn.Conv2d(3, 4, 3)],
    "transposed": lambda: [ConvTranspose2d(3, 4, 3)],
    "with batch norm": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)],
    "with layer norm": lambda: [nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4)],
    "with nothing": lambda: [nn.Conv2d(3, 4, 3), nn.Identity()],
    "normalized": lambda: [poise.normalize(nn.Conv2d(3, 4, 3), "sn")],
}


def images() -> Tensor:
    return torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made(layers: list[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("name", MAKERS)
def test_values_and_gradients_of_first_and_second_order_are_those_of_the_plain_activation(name, slope):
    torch.manual_seed(0)
    layers = [layer.double() for layer in MAKERS[name]()]
    found = []
    for written_over in (True, False):
        own: list[Any] = copy.deepcopy(layers)
        x = images().requires_grad_()
        h = made(own, x)
        output = rectified(h, *own, slope=slope) if written_over else F.leaky_relu(h, slope)
        (slopes,) = torch.autograd.grad(output.pow(2).sum(), x, create_graph=True)
        slopes.pow(2).sum().backward()
        found.append([output, slopes, x.grad, *[p.grad for layer in own for p in layer.parameters()]])
    torch.testing.assert_close(*found)


def test_it_is_written_over_what_the_layer_made():
    layer = nn.Conv2d(3, 4, 3).double()
    h = layer(images())
    assert rectified(h, layer) is h


@pytest.mark.parametrize("way", ["forward hook", "backward hook", "another kind", "replaced forward"])
def test_what_others_look_at_is_left_as_it_is(way):
    layer: Any = nn.Conv2d(3, 4, 3).double()
    seen = []
    if way == "forward hook":
        layer.register_forward_hook(lambda *given: seen.append(given[2]))
    if way == "backward hook":
        layer.register_full_backward_hook(lambda *given: seen.append(given[2][0]))
    if way == "another kind":
        layer = nn.Sequential(layer, nn.Tanh())
    if way == "replaced forward":
        layer.forward = torch.tanh
    h = layer(images())
    before = h.detach().clone()
    rectified(h, layer, slope=0.1).sum().backward() if h.requires_grad else rectified(h, layer)
    assert torch.equal(h.detach(), before)
    assert len(seen) == ("hook" in way)
