"""Convolutions fused with a change of resolution, against the two operations one after the other, in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise import normalize
from poise.layers import DiscriminatorBlock, GeneratorBlock
from poise.layers.batch_norm import BatchNorm
from poise.layers.resampling import doubled, doubled_conv, halved_conv


def plain_halved(conv, x):
    return F.avg_pool2d(conv(x), 2)


def plain_doubled(conv, x):
    return conv(F.interpolate(x, scale_factor=2))


def doubled_between(conv, x):
    return doubled_conv(conv, x, "bilinear")


def plain_between(conv, x):
    return conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


PAIRS = {
    "halved": (halved_conv, plain_halved),
    "doubled": (doubled_conv, plain_doubled),
    "doubled, bilinear": (doubled_between, plain_between),
}


def derivatives(function, conv, x):
    """The output, its gradients, and the gradient of a gradient penalty, which goes through twice."""
    x = x.clone().requires_grad_()
    y = function(conv, x)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    weights = list(conv.parameters())
    return [y, slope, *torch.autograd.grad(slope.square().sum() + y.sum(), [x, *weights])]


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 6), (6, 7), (2, 2)])
@pytest.mark.parametrize("norm", ["none", "bssn"])
def test_fused_equals_one_after_the_other(kind, kernel, size, norm):
    torch.manual_seed(0)
    fused, plain = PAIRS[kind]
    if kind == "halved" and size[1] % 2:
        size = (size[0], size[1] + 1)
    conv = normalize(nn.Conv2d(3, 5, kernel, padding=kernel // 2).double(), norm).eval()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for found, expected in zip(derivatives(fused, conv, x), derivatives(plain, conv, x), strict=True):
        # some 200 ε of the largest entry: sums of thousands of terms cancel in the small ones
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-14 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_only_the_gradients_asked_for_are_computed_and_they_are_right(mode):
    """Frozen weights, a constant input, no bias: each combination by itself."""
    torch.manual_seed(0)
    for frozen in ("weight", "x", "bias"):
        conv = nn.Conv2d(2, 3, 3, padding=1, bias=frozen != "bias").double()
        conv.weight.requires_grad_(frozen != "weight")
        x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=frozen != "x")
        wanted = [tensor for tensor in (x, *conv.parameters()) if tensor.requires_grad]
        found = torch.autograd.grad(doubled_conv(conv, x, mode).square().sum(), wanted)
        expected = torch.autograd.grad(conv(doubled(x, mode)).square().sum(), wanted)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_under_autocast_the_result_is_bfloat16s_and_the_gradients_are_the_weights_own(mode):
    torch.manual_seed(0)
    conv: Any = nn.Conv2d(8, 8, 3, padding=1)
    x: Any = torch.randn(2, 8, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = doubled_conv(conv, x, mode)
    y.float().square().mean().backward()
    assert y.dtype == torch.bfloat16
    assert (x.grad.dtype, conv.weight.grad.dtype) == (torch.float32, torch.float32)
    (exact,) = torch.autograd.grad(conv(doubled(x, mode)).square().mean(), conv.weight)
    assert (conv.weight.grad - exact).norm() < 0.02 * exact.norm()


class Doubling(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


OTHERS: dict[str, Any] = {
    "stride": nn.Conv2d(4, 4, 3, stride=2, padding=1),
    "dilation": nn.Conv2d(4, 4, 3, padding=1, dilation=1, groups=2),
    "no padding": nn.Conv2d(4, 4, 3),
    "circular": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "even kernel": nn.Conv2d(4, 4, 4, padding=2),
    "named padding": nn.Conv2d(4, 4, 3, padding="same"),
    "own forward": Doubling(4, 4, 3, padding=1),
    "another module": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("layer", OTHERS)
def test_what_cannot_be_fused_is_called_as_it_is(kind, layer):
    fused, plain = PAIRS[kind]
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(fused(OTHERS[layer], x), plain(OTHERS[layer], x))


def test_odd_images_are_halved_as_the_mean_halves_them():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    assert halved_conv(conv, torch.randn(1, 2, 7, 7)).shape == (1, 2, 3, 3)


@pytest.mark.parametrize("kind", PAIRS)
def test_who_listens_to_the_convolution_hears_it(kind):
    conv, heard = nn.Conv2d(2, 2, 3, padding=1), []
    conv.register_forward_hook(lambda *called: heard.append(called))
    PAIRS[kind][0](conv, torch.randn(1, 2, 4, 4))
    assert len(heard) == 1


def test_blocks_spend_less_than_half_on_their_resampled_convolution():
    from torch.utils.flop_counter import FlopCounterMode

    def flops(block, x):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            block(x)
        return counter.get_total_flops()

    x = torch.randn(1, 8, 16, 16)
    for block in (
        GeneratorBlock(8, 8, BatchNorm),
        GeneratorBlock(8, 8, BatchNorm, "bilinear"),
        DiscriminatorBlock(8, 8),
    ):
        fused = flops(block, x)
        handles = [layer.register_forward_hook(lambda *_: None) for layer in (block.conv1, block.conv2)]
        assert fused < 0.8 * flops(block, x)
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", PAIRS)
def test_torch_func_goes_through(kind):
    """Gradients of each sample by themselves, as ``torch.func`` takes them."""
    torch.manual_seed(0)
    fused, plain = PAIRS[kind]
    conv, x = nn.Conv2d(2, 2, 3, padding=1).double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)

    def slopes(function):
        return torch.func.vmap(torch.func.grad(lambda one: function(conv, one[None]).square().sum()))(x)

    torch.testing.assert_close(slopes(fused), slopes(plain), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", PAIRS)
def test_shapes_are_known_without_data(kind):
    conv = nn.Conv2d(2, 3, 3, padding=1, device="meta")
    x = torch.empty(1, 2, 8, 8, device="meta")
    assert PAIRS[kind][0](conv, x).shape == PAIRS[kind][1](conv, x).shape
