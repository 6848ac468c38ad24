"""The self-attention pair: parameters, where attention stands, and that the rest is the ResNet's."""

import pytest
import torch
from torch import nn

from poise.layers import SelfAttention
from poise.models.sagan import sagan
from poise.models.sngan import sngan
from poise.norms import normalize

WIDTHS = {32: 8, 128: 4}
"""the smallest with a multiple of 8 channels where attention stands"""


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def tiny(resolution, **options):
    return sagan(resolution, WIDTHS[resolution], 5, **{"num_classes": 3, **options})


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


# As torch-mimicry 0.1.16 counts its SAGAN, with ngf = ndf = 1024 at 128.
@pytest.mark.parametrize(
    ("resolution", "num_classes", "counts"), [(32, 10, (4_386_308, 1_075_586)), (128, 20, (32_419_972, 29_058_818))]
)
def test_parameter_counts(resolution, num_classes, counts):
    with torch.device("meta"):
        g, d = sagan(resolution, num_classes=num_classes)
    assert (count(g), count(d)) == counts


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize(("resolution", "attended"), [(32, [16, 8]), (128, [32, 32])])
def test_one_image_in_each_network_is_attended_to(resolution, attended, num_classes):
    g, d = tiny(resolution, num_classes=num_classes)
    seen = []
    for network in (g, d):
        (attention,) = [layer for layer in network.modules() if isinstance(layer, SelfAttention)]
        attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    labels = [torch.tensor([0, 2])] if num_classes else []
    images = g(torch.randn(2, 5), *labels)
    assert images.shape == (2, 3, resolution, resolution)
    assert images.abs().max() <= 1
    assert d(images, *labels).shape == (2,)
    assert seen == [(pixels, pixels) for pixels in attended]


@pytest.mark.parametrize("resolution", WIDTHS)
def test_with_attention_shut_it_is_the_resnet(resolution):
    pair = tiny(resolution)
    plain = sngan(resolution, WIDTHS[resolution], 5, num_classes=3)
    y = torch.tensor([0, 2])
    inputs = torch.randn(2, 5), torch.rand(2, 3, resolution, resolution)
    for network, resnet, x in zip(pair, plain, inputs, strict=True):
        state = network.state_dict()
        assert state.pop("attention.gamma") == 0  # shut at first
        resnet.load_state_dict({key: value for key, value in state.items() if not key.startswith("attention.")})
        network.eval(), resnet.eval()
        torch.testing.assert_close(network(x, y), resnet(x, y))
        nn.init.ones_(network.attention.gamma)
        assert not torch.allclose(network(x, y), resnet(x, y))


@pytest.mark.parametrize("norm", ["none", "sn", "bssn"])
@pytest.mark.parametrize("resolution", WIDTHS)
def test_gradients_reach_every_parameter(resolution, norm):
    g, d = tiny(resolution)
    for network in (g, d):
        nn.init.ones_(network.attention.gamma)
    normalize(d, norm)
    y = torch.arange(6) % 3
    d(g(torch.randn(6, 5), y), y).square().sum().backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 64}, r"^resolution is 64; sagan has 32, 128 pixels: nearest 32$"),
        ({"width": 3}, r"^channels is .*; self-attention needs a multiple of 8: nearest"),
        ({"conditioning": "none"}, "^unknown conditioning 'none'; "),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        sagan(**options)
