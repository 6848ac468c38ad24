"""The weight-normalized residual pair: its layers counted, its sums at the start, and the authors' parameter counts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.layers.weight_normalized import WeightedSum
from poise.models.dcgan import Level
from poise.models.wngan import WIDTHS, DownBlock, UpBlock, depth, wngan
from poise.norms import normalize, normalized_weights

SIZES = [(8, None), (16, None), (32, None), (64, None), (160, None), (36, 50), (256, 8)]


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def mix(module):
    """Give every residual sum weights that let both sides through."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, WeightedSum):
                part.weight.copy_(torch.randn_like(part.weight))
    return module


def pair(*sizes, **options):
    """The networks, whose parts mypy need not know."""
    return wngan(*sizes, **options)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.mark.parametrize("layer_norm", ["weight", "none"])
@pytest.mark.parametrize(("resolution", "image_width"), SIZES)
def test_shapes_and_range(resolution, image_width, layer_norm):
    g, d = pair(resolution, width=2, blocks=1, latent_dim=5, layer_norm=layer_norm, image_width=image_width)
    assert (g.resolution, g.latent_dim, g.num_classes, d.resolution) == (resolution, 5, 0, resolution)
    images = mix(g)(torch.randn(3, 5))
    assert images.shape == (3, 3, resolution, image_width or resolution)
    assert g(1000 * torch.randn(3, 5)).abs().max() <= 1
    assert images.std() > 0.01
    assert d(images).shape == (3,)


@pytest.mark.parametrize("layer_norm", ["weight", "none"])
def test_gradients_reach_every_parameter_once_the_sums_are_mixed(layer_norm):
    g, d = map(mix, pair(14, width=4, blocks=2, latent_dim=5, layer_norm=layer_norm, image_width=28))
    d(g(torch.randn(8, 5))).square().sum().backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_the_first_gradients_open_the_residual_branches():
    g, d = pair(16, width=4, latent_dim=5)
    d(g(torch.randn(8, 5))).square().sum().backward()
    sums = [part for part in [*g.modules(), *d.modules()] if isinstance(part, WeightedSum)]
    assert len(sums) == 2 * 2 * 2  # networks, levels, blocks
    assert all(part.weight.grad is not None and part.weight.grad[0].abs().min() > 0 for part in sums)


@pytest.mark.parametrize("level", [None, Level((8, 6), (0, 1))])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (3, 6)])
@pytest.mark.parametrize("kind", [DownBlock, UpBlock])
def test_a_block_is_its_formula_and_at_first_its_shortcut(kind, inputs, outputs, level):
    block = kind(inputs, outputs, "weight", level).double()
    rows, columns = (8, 6) if kind is DownBlock or level is None else level.half
    x = torch.randn(2, inputs, rows, columns, dtype=torch.float64)
    shortcut = x
    if kind is UpBlock and inputs != outputs:
        shortcut = F.conv2d(shortcut, block.match.weight)
    if level is not None:
        if kind is DownBlock:
            padded = F.pad(shortcut, (1, 1, 0, 0))
            shortcut = padded.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
        else:
            shortcut = shortcut.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., 1:-1]
    if kind is DownBlock and inputs != outputs:
        shortcut = F.conv2d(shortcut, block.match.weight)
    torch.testing.assert_close(block(x), torch.where(shortcut > 0, shortcut, 0.25 * shortcut))
    mix(block)
    a = F.normalize(block.sum.weight, dim=0)[..., None, None]
    total = a[0] * block.residual(x) + a[1] * shortcut
    torch.testing.assert_close(block(x), torch.where(total > 0, total, 0.25 * total))


def longest_way(player):
    """Layers with weights, without those of the shortcuts."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return [n for n, layer in player.named_modules() if isinstance(layer, kinds) and not n.endswith("match")]


def test_the_preset_has_21_layersand_the_papers_features():
    with torch.device("meta"):
        g, d = pair()
    assert len(longest_way(g)) == len(longest_way(d)) == depth(blocks=2, levels=5) == 21
    assert g.resolution == 160
    found = dict.fromkeys(block.sum.weight.shape[1] for block in d.blocks)
    assert list(found) == [64, 128, 256, 384, 512]
    assert [block.sum.weight.shape[1] for block in g.blocks] == [512, 384, 384, 256, 256, 128, 128, 64, 64, 3]


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize(("resolution", "levels"), [(16, 2), (32, 3), (64, 4), (128, 5), (160, 5), (320, 5)])
def test_layersare_counted_right_at_every_size(resolution, levels, blocks):
    for player in pair(resolution, 1, blocks, latent_dim=1):
        assert len(longest_way(player)) == depth(blocks, levels)


@pytest.mark.parametrize("blocks", [1, 2])
def test_counts_are_those_of_the_authors_network(blocks):
    # By hand from theirs: strict layers have weights alone, a TReLU 2 a channel, a sum 2, linear layers gain and bias.
    width, latent = 2, 16
    g, d = pair(160, width, blocks, latent)
    channels = [width * factor for factor in WIDTHS]
    down, up = 0, 0
    for inputs, outputs in zip([3, *channels], channels, strict=False):
        down += 16 * inputs * outputs + 9 * outputs**2 + inputs * outputs + 2 * (1 + 1 + 1) * outputs
        down += (blocks - 1) * (18 * outputs**2 + 6 * outputs)
        up += 9 * outputs**2 + 16 * outputs * inputs + inputs * outputs + 2 * outputs + 2 * (1 + 1) * inputs
        up += (blocks - 1) * (18 * outputs**2 + 6 * outputs)
    assert count(d) == down + 25 * channels[-1] + 2
    assert count(g) == up + 25 * channels[-1] * (latent + 2) + channels[-1]
    # The authors' own classes, built at these sizes, have as many.
    assert (count(g), count(d)) == {1: (17450, 10688), 2: (26414, 19652)}[blocks]


def test_hidden_layersare_strict_and_the_linear_ones_affine():
    for player in pair(36, width=2, blocks=2, latent_dim=5):
        weights = list(normalized_weights(player))
        layers = [m for m in player.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        assert len(weights) == len(layers)
        for weight in weights:
            linear = isinstance(weight.layer, nn.Linear)
            assert (weight.normalization.gain is not None) == linear
            assert (weight.layer.bias is not None) == linear
            if not isinstance(weight.layer, nn.ConvTranspose2d):
                assert isinstance(weight.layer.weight, torch.Tensor)
                lengths = weight.layer.weight.flatten(1).norm(dim=1)
                torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_the_generators_first_weights_are_a_hundredth_as_long():
    g, _ = pair(16, width=8, latent_dim=50)
    (first, *_) = normalized_weights(g)
    assert float(first.original.detach().std()) == pytest.approx(0.01 / math.sqrt(3 * 50), rel=0.03)


@pytest.mark.parametrize("norm", ["sn", "bssn", "wn", "clip"])
def test_the_plain_discriminator_runs_under_a_norm(norm):
    _, d = pair(12, width=2, blocks=2, layer_norm="none")
    assert not list(normalized_weights(d))
    logits = normalize(mix(d), norm)(torch.randn(4, 3, 12, 12))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in d.parameters())


def test_each_image_has_its_own_logit():
    _, d = pair(16, width=4)
    images = torch.randn(4, 3, 16, 16)
    together = mix(d)(images)
    torch.testing.assert_close(together, torch.cat([d(image[None]) for image in images]), rtol=1e-4, atol=1e-5)
    assert together.unique().numel() == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 31}, r"^resolution is 31; wngan .*\b30 or 32\b"),
        ({"resolution": 6}, r"^resolution is 6; wngan .*\b8\b"),
        ({"image_width": 9}, r"^image_width is 9; wngan .*\b8 or 10\b"),
        ({"width": 0}, "^width is 0; it must be at least 1"),
        ({"blocks": 0}, "^blocks is 0; it must be at least 1"),
        ({"latent_dim": 0}, "^latent_dim is 0; it must be at least 1"),
        ({"layer_norm": "wait"}, r"^unknown layer_norm 'wait'; did you mean 'weight'\?"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        pair(**options)
