"""The standard CNN pair: shapes, the paper's parameter counts, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn

from poise.models import create
from poise.norms import NORMS, normalize, normalized_weights

RESOLUTIONS = [16, 32, 48, 64]


def count(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.mark.parametrize("latent_dim", [1, 12])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_and_range(resolution, latent_dim):
    g, d = create("sngan-cnn", resolution=resolution, width=2, latent_dim=latent_dim)
    assert (g.resolution, g.latent_dim, g.num_classes, d.resolution, d.num_classes) == (
        resolution,
        latent_dim,
        0,
        resolution,
        0,
    )
    for n in (1, 3):
        images = g(50 * torch.randn(n, latent_dim))
        assert images.shape == (n, 3, resolution, resolution)
        assert images.abs().max() <= 1
        assert d(images).shape == (n,)
    assert images.std() > 0.01


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_gradients_reach_every_parameter(resolution):
    g, d = create("sngan-cnn", resolution=resolution, width=2, latent_dim=5)
    d(g(torch.randn(4, 5))).square().sum().backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_each_image_has_its_own_logit():
    g, d = create("sngan-cnn", resolution=16, width=2, latent_dim=5)
    images = g.eval()(torch.randn(4, 5))
    together = d(images)
    torch.testing.assert_close(together, torch.cat([d(image[None]) for image in images]))
    assert together.unique().numel() == 4


def test_parameter_counts_at_32_are_those_of_the_papers_table():
    g, d = create("sngan-cnn")
    generator = [
        128 * 4 * 4 * 512 + 4 * 4 * 512,  # dense, 4 × 4 × 512
        512 + 512,  # its batch norm: gain and bias
        512 * 256 * 4 * 4 + 256 + 2 * 256,  # deconv 4×4 stride 2, with batch norm
        256 * 128 * 4 * 4 + 128 + 2 * 128,
        128 * 64 * 4 * 4 + 64 + 2 * 64,
        64 * 3 * 3 * 3 + 3,  # conv 3×3 to RGB
    ]
    discriminator = [
        3 * 64 * 3 * 3 + 64,
        64 * 64 * 4 * 4 + 64,
        64 * 128 * 3 * 3 + 128,
        128 * 128 * 4 * 4 + 128,
        128 * 256 * 3 * 3 + 256,
        256 * 256 * 4 * 4 + 256,
        256 * 512 * 3 * 3 + 512,
        4 * 4 * 512 * 1 + 1,  # dense
    ]
    assert (count(g), count(d)) == (sum(generator), sum(discriminator))
    assert (g.latent_dim, g.resolution) == (128, 32)


def test_parameter_counts_at_48_differ_in_the_dense_layers_alone():
    (g32, d32), (g48, d48) = (create("sngan-cnn", resolution=resolution) for resolution in (32, 48))
    assert count(g48) - count(g32) == (6 * 6 - 4 * 4) * 512 * (128 + 1)
    assert count(d48) - count(d32) == (6 * 6 - 4 * 4) * 512


def test_strides_and_kernels_are_the_papers():
    g, d = create("sngan-cnn", width=2)
    convolutions = [layer for layer in d.modules() if isinstance(layer, nn.Conv2d)]
    found = [(c.kernel_size[0], c.stride[0], c.out_channels // 2) for c in convolutions]
    assert found == [(3, 1, 1), (4, 2, 1), (3, 1, 2), (4, 2, 2), (3, 1, 4), (4, 2, 4), (3, 1, 8)]
    deconvolutions = [layer for layer in g.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert [(c.kernel_size[0], c.stride[0], c.out_channels // 2) for c in deconvolutions] == [
        (4, 2, 4),
        (4, 2, 2),
        (4, 2, 1),
    ]


def test_the_discriminator_is_leaky_linear_in_its_slopes():
    # A network of leaky ReLUs without biases is positively homogeneous of degree 1.
    _, d = create("sngan-cnn", resolution=16, width=2)
    with torch.no_grad():
        for name, weight in d.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
        images = torch.randn(3, 3, 16, 16)
        torch.testing.assert_close(d(5 * images), 5 * d(images), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(d(-images), -d(images))


@pytest.mark.parametrize("resolution", [16, 48])
@pytest.mark.parametrize("norm", NORMS)
def test_the_discriminator_runs_under_every_norm(norm, resolution):
    _, d = create("sngan-cnn", resolution=resolution, width=2)
    normalize(d, norm)
    layers = 0 if norm == "none" else sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in d.modules())
    assert len(list(normalized_weights(d))) == layers
    images = torch.rand(2, 3, resolution, resolution).mul(2).sub(1).requires_grad_()
    logits = d(images)
    logits.sum().backward()
    assert logits.isfinite().all()
    for tensor in [images, *d.parameters()]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 20}, r"^resolution is 20; .*\b16 or 32\b"),
        ({"resolution": 8}, r"^resolution is 8; .*\b16\b"),
        ({"resolution": 0}, r"^resolution is 0; .*\b16\b"),
        ({"resolution": 40}, r"^resolution is 40; .*\b32 or 48\b"),
        ({"width": 0}, "^width is 0; it must be at least 1"),
        ({"width": -4}, "^width is -4; it must be at least 1"),
        ({"latent_dim": 0}, "^latent_dim is 0; it must be at least 1"),
        ({"widht": 4}, r"^model 'sngan-cnn' has no option 'widht'; did you mean 'width'\?$"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        create("sngan-cnn", **options)


def test_an_unknown_model_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown model 'sngan-cn'; did you mean 'sngan-cnn'\?$"):
        create("sngan-cn")


@pytest.mark.parametrize("shape", [(2, 4), (2, 6), (5,), (2, 5, 1)])
def test_wrong_latents_are_refused(shape):
    g, _ = create("sngan-cnn", resolution=16, width=1, latent_dim=5)
    with pytest.raises(ValueError, match=r"^latents have shape \(.*; this generator takes \(n, 5\)"):
        g(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 16, 16), (3, 16, 16), (2, 3, 16, 17)])
def test_wrong_images_are_refused(shape):
    _, d = create("sngan-cnn", resolution=16, width=1)
    with pytest.raises(ValueError, match=r"^images have shape \(.*; this discriminator takes \(n, 3, 16, 16\)"):
        d(torch.zeros(shape))


def test_labels_are_refused():
    g, d = create("sngan-cnn", resolution=16, width=1, latent_dim=5)
    labels = torch.zeros(2, dtype=torch.int64)
    for player, inputs in ((g, torch.zeros(2, 5)), (d, torch.zeros(2, 3, 16, 16))):
        with pytest.raises(ValueError, match=r"labels were given to .*, which has no classes .*leave y out"):
            player(inputs, labels)


@pytest.mark.parametrize(("layer_norm", "kind"), [("batch", nn.BatchNorm2d), ("layer", nn.GroupNorm)])
def test_a_norm_of_activations_stands_after_every_convolution_but_the_first(layer_norm, kind):
    d: Any = create("sngan-cnn", resolution=16, width=2, d_layer_norm=layer_norm)[1]
    kinds = [type(norm) for norm in d.norms]
    assert kinds == [nn.Identity] + [kind] * (len(d.convs) - 1)
    images = torch.randn(6, 3, 16, 16)
    h = torch.nn.functional.leaky_relu(d.convs[0](images), 0.1)
    h = d.norms[1](d.convs[1](h))
    dims = (0, 2, 3) if layer_norm == "batch" else (1, 2, 3)
    torch.testing.assert_close(h.var(dims, correction=0), torch.ones(h.shape[1 - dims[0]]), atol=1e-2, rtol=0)
    assert d(images).shape == (6,)


def test_without_a_norm_keys_and_first_weights_are_those_of_before():
    torch.manual_seed(1)
    _, plain = create("sngan-cnn", resolution=16, width=2)
    torch.manual_seed(1)
    _, named = create("sngan-cnn", resolution=16, width=2, d_layer_norm="none", d_features=1.0)
    convs = (f"convs.{index}.{name}" for index in range(5) for name in ("weight", "bias"))
    assert list(plain.state_dict()) == [*convs, "linear.weight", "linear.bias"]
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, named.state_dict()[name])


@pytest.mark.parametrize(("factor", "channels"), [(0.5, 4), (1.0, 8), (4.0, 32)])
def test_features_count_the_last_convolutions_channels(factor, channels):
    pair: tuple[Any, Any] = create("sngan-cnn", resolution=16, width=2, latent_dim=5, d_features=factor)
    g, d = pair
    assert [conv.out_channels for conv in d.convs] == [2, 2, 4, 4, channels]
    assert d(g(torch.randn(3, 5))).shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_layer_norm": "bach"}, "unknown d_layer_norm 'bach'; did you mean 'batch'"),
        ({"d_features": 0.0}, "d_features is 0.0; of 8 channels allowed"),
    ],
)
def test_other_words_and_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create("sngan-cnn", resolution=16, width=2, **options)
