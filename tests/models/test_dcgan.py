"""The deep convolutional pair: any even size, four norms, and the parameter counts of the authors' networks."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.layers import TranslatedReLU
from poise.models.dcgan import LAYER_NORMS, dcgan, levels_of
from poise.norms import normalize, normalized_weights
from poise.norms.weight import unit_norms

SIZES = [(8, None), (16, None), (32, None), (48, None), (64, None), (128, None), (36, 50), (64, 8)]


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def pair(*sizes, **options):
    """The networks, whose parts mypy need not know."""
    return dcgan(*sizes, **options)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.mark.parametrize("layer_norm", LAYER_NORMS)
@pytest.mark.parametrize(("resolution", "image_width"), SIZES)
def test_shapes_and_range(resolution, image_width, layer_norm):
    g, d = pair(resolution, width=2, latent_dim=5, layer_norm=layer_norm, image_width=image_width)
    assert (g.resolution, g.latent_dim, g.num_classes) == (resolution, 5, 0)
    assert (d.resolution, d.num_classes) == (resolution, 0)
    images = g(torch.randn(3, 5))
    assert images.shape == (3, 3, resolution, image_width or resolution)
    assert g(1000 * torch.randn(3, 5)).abs().max() <= 1
    assert images.std() > 0.01
    assert d(images).shape == (3,)
    assert d(images[:1]).shape == (1,)


@pytest.mark.parametrize("layer_norm", LAYER_NORMS)
@pytest.mark.parametrize("activation", [None, "relu", "prelu", "translated", "translated-leaky"])
def test_gradients_reach_every_parameter(layer_norm, activation):
    # 14 rows are padded on the way, 28 columns are not at first.
    g, d = pair(14, 4, 5, layer_norm, activation, image_width=28)
    d(g(torch.randn(16, 5))).square().sum().backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_batch_norm_counts_are_those_of_the_usual_64_pixel_dcgan():
    # pytorch/examples, dcgan: 3,576,704 and 2,765,568, without any bias; here the layers that no norm follows have one.
    g, d = pair(64, width=64, latent_dim=100)
    assert count(g) == 3_576_704 + 3
    assert count(d) == 2_765_568 + 64 + 1


@pytest.mark.parametrize(
    ("layer_norm", "activation", "learned_by_activation"), [("weight", None, 2), ("none", "prelu", 1)]
)
def test_counts_are_those_of_xiang_and_lis_networks_at_160_pixels(layer_norm, activation, learned_by_activation):
    g, d = pair(160, 64, 256, layer_norm, activation)
    channels = [64, 128, 256, 512, 1024]
    has_bias = layer_norm == "none"
    between = sum(a * b * 16 for a, b in itertools.pairwise(channels)) + 3 * 64 * 16
    inner = learned_by_activation * sum(channels) + between
    last_gain = 0 if has_bias else 1
    assert count(d) == inner + has_bias * sum(channels) + 1024 * 25 + 1 + last_gain
    linear = 1024 * 25 * (256 + has_bias)
    assert count(g) == inner + linear + has_bias * sum(channels[:-1]) + 3 + 3 * last_gain


def test_every_level_is_even_but_the_last_and_none_is_padded_more_than_needed():
    for rows in range(8, 300, 2):
        for columns in (8, rows, 300):
            levels = levels_of((rows, columns), "dcgan")
            assert levels[0].size == (rows, columns)
            for level, following in itertools.pairwise(levels):
                assert level.half == following.size
                assert not any(side % 2 for side in following.size)
                for side, pad in zip(level.size, level.pad, strict=True):
                    assert pad == (side // 2) % 2
            assert levels[-1].pad == (0, 0)
            assert 4 <= max(levels[-1].half) < 8


@pytest.mark.parametrize(
    ("resolution", "levels", "last"), [(16, 2, 4), (32, 3, 4), (64, 4, 4), (128, 5, 4), (160, 5, 5)]
)
def test_levels_are_those_of_the_table(resolution, levels, last):
    found = levels_of((resolution, resolution), "dcgan")
    assert (len(found), found[-1].half) == (levels, (last, last))


def test_the_discriminator_is_its_formula():
    _, d = pair(16, width=4, layer_norm="none")
    d, images = d.double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    h = images
    for block in d.blocks:
        h = F.conv2d(h, block[0].weight, block[0].bias, stride=2, padding=1)
        h = torch.where(h > 0, h, 0.2 * h)
    logits = h.flatten(1) @ d.linear.weight[0] + d.linear.bias
    torch.testing.assert_close(d(images), logits)


def test_the_generator_is_its_formula_in_evaluation():
    g, _ = pair(16, width=4, latent_dim=5)
    g(torch.randn(50, 5))  # running statistics
    g, z = g.double().eval(), torch.randn(3, 5, dtype=torch.float64)
    h = (z @ g.linear.weight.T).view(3, 8, 4, 4)
    for after, deconv in zip(g.after, g.deconvs, strict=True):
        norm = after[0]
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        h = (h - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        h = F.conv_transpose2d(h.clamp(min=0), deconv.weight, deconv.bias, stride=2, padding=1)
    torch.testing.assert_close(g(z), h.tanh())


def test_layer_norm_makes_each_image_independent_of_the_batch_and_batch_norm_does_not():
    images = torch.randn(4, 3, 16, 16)
    for layer_norm, same in [("layer", True), ("none", True), ("weight", True), ("batch", False)]:
        _, d = pair(16, width=4, layer_norm=layer_norm)
        alone = torch.cat([d(image[None]) for image in images])
        assert torch.allclose(d(images), alone, rtol=1e-4, atol=1e-6) == same, layer_norm


def test_radfords_norms_stand_everywhere_but_at_the_generators_end_and_the_discriminators_ends():
    g, d = pair(32, width=2)
    norms = [[layer.num_features for layer in m.modules() if isinstance(layer, nn.BatchNorm2d)] for m in (g, d)]
    assert norms == [[8, 4, 2], [4, 8]]
    weights = torch.cat([layer.weight.flatten() for layer in pair(32)[1].modules() if isinstance(layer, nn.Conv2d)])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.01)


def test_weight_form_has_strict_hidden_layers_and_affine_last_ones():
    g, d = pair(36, width=4, latent_dim=6, layer_norm="weight", image_width=50)
    for player in (g, d):
        *hidden, last = normalized_weights(player)
        for layer in (weight.layer for weight in hidden):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            assert isinstance(layer.weight, torch.Tensor)
            norms = unit_norms(layer.weight, 1 if transposed else 0)
            # A strict transposed convolution of stride 2 has rows of length √(2·2): each pixel sees a quarter of them.
            torch.testing.assert_close(norms, torch.full_like(norms, 2.0 if transposed else 1.0))
            assert layer.bias is None
        assert last.normalization.gain is not None
        assert isinstance(last.layer.bias, torch.Tensor)
        assert not last.layer.bias.any()
    layers = [layer for layer in d.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == len(list(normalized_weights(d)))
    assert all(t.slope is not None for t in [*g.modules(), *d.modules()] if isinstance(t, TranslatedReLU))


def test_weight_forms_first_weights_are_a_hundredth_as_long_which_changes_nothing_but_their_first_steps():
    g, _ = pair(16, width=8, latent_dim=50, layer_norm="weight")
    (first, *_) = normalized_weights(g)
    assert float(first.original.detach().std()) == pytest.approx(0.01 / math.sqrt(3 * 50), rel=0.03)
    z = torch.randn(2, 50)
    before = g(z)
    with torch.no_grad():
        first.original.mul_(100)
    torch.testing.assert_close(g(z), before)


def test_weight_form_keeps_variance_from_level_to_level():
    _, d = pair(64, width=32, layer_norm="weight", activation="translated")
    h = torch.randn(8, 3, 64, 64)
    sizes = []
    for block in d.blocks:
        h = block[0](h)
        sizes.append(float(h.detach().square().mean()))
        h = block[1](h) * math.sqrt(2)  # a rectifier halves the second moment
    assert all(0.4 < size < 2.5 for size in sizes), sizes


@pytest.mark.parametrize("norm", ["sn", "bssn", "wn", "wn-strict", "clip"])
@pytest.mark.parametrize("layer_norm", ["none", "batch"])
def test_the_discriminator_runs_under_a_norm(norm, layer_norm):
    _, d = pair(12, width=2, layer_norm=layer_norm)
    normalize(d, norm)
    logits = d(torch.randn(4, 3, 12, 12))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in d.parameters())


def test_a_second_norm_on_the_weight_form_is_refused():
    _, d = pair(8, width=2, layer_norm="weight")
    with pytest.raises(ValueError, match="normalized already"):
        normalize(d, "sn")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 31}, r"^resolution is 31; dcgan .*\b30 or 32\b"),
        ({"resolution": 4}, r"^resolution is 4; dcgan .*\b8\b"),
        ({"image_width": 33}, r"^image_width is 33; dcgan .*\b32 or 34\b"),
        ({"image_width": 0}, r"^image_width is 0; .*\b8\b"),
        ({"width": 0}, "^width is 0; it must be at least 1"),
        ({"latent_dim": -1}, "^latent_dim is -1; it must be at least 1"),
        ({"layer_norm": "bach"}, r"^unknown layer_norm 'bach'; did you mean 'batch'\?"),
        ({"activation": "rely"}, r"^unknown activation 'rely'; did you mean 'relu'\?"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        pair(**options)


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (2, 1, 8, 16), (3, 8, 16)])
def test_wrong_images_are_refused(shape):
    _, d = pair(8, width=1, image_width=16)
    with pytest.raises(ValueError, match=r"^images have shape \(.*; this discriminator takes \(n, 3, 8, 16\)"):
        d(torch.zeros(shape))


def test_labels_are_refused():
    g, d = pair(8, width=1, latent_dim=5)
    for player, inputs in ((g, torch.zeros(2, 5)), (d, torch.zeros(2, 3, 8, 8))):
        with pytest.raises(ValueError, match="labels were given"):
            player(inputs, torch.zeros(2, dtype=torch.int64))
