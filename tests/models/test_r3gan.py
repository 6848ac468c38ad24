"""The residual pair without normalization: identity blocks at the start, its filter, and the authors' counts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.models.r3gan import RESOLUTIONS, Resample, ResidualBlock, r3gan
from poise.norms import NORMS, normalize

UNITS = {8: 8, 16: 8, 32: 8, 64: 16, 128: 32, 256: 64}
"""the least width at each resolution"""


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def open_branches(module):
    """Give the last convolution of every residual branch weights."""
    for block in module.modules():
        if isinstance(block, ResidualBlock):
            nn.init.normal_(block.conv3.weight, std=0.2)
    return module


def pair(*sizes, **options):
    """The networks, whose parts mypy need not know."""
    return r3gan(*sizes, **options)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_and_range(resolution, num_classes):
    g, d = pair(resolution, UNITS[resolution], blocks=1, latent_dim=5, num_classes=num_classes)
    assert (g.resolution, g.latent_dim, g.num_classes) == (resolution, 5, num_classes)
    assert (d.resolution, d.num_classes) == (resolution, num_classes)
    labels = [torch.arange(3)] if num_classes else []
    images = g(torch.randn(3, 5), *labels)
    assert images.shape == (3, 3, resolution, resolution)
    assert g(1000 * torch.randn(3, 5), *labels).abs().max() <= 1
    assert images.std() > 0.1
    assert d(images, *labels).shape == (3,)


def test_an_unbounded_generator_is_the_bounded_one_before_tanh():
    g, _ = pair(16, 8, latent_dim=5)
    h, _ = pair(16, 8, latent_dim=5, bounded=False)
    h.load_state_dict(g.state_dict())
    z = torch.randn(2, 5)
    torch.testing.assert_close(h(z).tanh(), g(z))
    assert h(20 * z).abs().max() > 1


@pytest.mark.parametrize("num_classes", [0, 3])
def test_gradients_reach_every_parameter_once_the_branches_are_open(num_classes):
    g, d = map(open_branches, pair(64, 16, blocks=1, latent_dim=5, num_classes=num_classes))
    labels = [torch.arange(6) % 3] if num_classes else []
    d(g(torch.randn(6, 5), *labels), *labels).square().sum().backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_the_first_gradients_open_every_branch():
    g, d = pair(16, 8, latent_dim=5)
    d(g(torch.randn(6, 5))).square().sum().backward()
    blocks = [m for m in [*g.modules(), *d.modules()] if isinstance(m, ResidualBlock)]
    assert len(blocks) == 2 * 2 * 3  # networks, blocks, sides
    for block in blocks:
        assert block.conv3.weight.grad is not None
        assert block.conv3.weight.grad.abs().max() > 0


def test_every_block_is_at_first_the_identity_to_the_bit():
    for player in pair(16, 8):
        for block in (m for m in player.modules() if isinstance(m, ResidualBlock)):
            x = torch.randn(2, 8, 4, 4)
            assert torch.equal(block(x), x)


def test_a_block_is_its_formula():
    block = open_branches(ResidualBlock(16, blocks=4)).double()
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        block.conv1.bias.normal_()
        block.conv2.bias.normal_()

    def rectified(h):
        return torch.where(h > 0, h, 0.2 * h)

    h = rectified(torch.einsum("oi,nihw->nohw", block.conv1.weight[:, :, 0, 0], x) + block.conv1.bias[:, None, None])
    groups = [
        F.conv2d(h[:, at : at + 16], block.conv2.weight[at : at + 16], block.conv2.bias[at : at + 16], padding=1)
        for at in (0, 16)  # 32 channels inside, 16 to a group
    ]
    h = rectified(torch.cat(groups, 1))
    expected = x + torch.einsum("oi,nihw->nohw", block.conv3.weight[:, :, 0, 0], h)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_weights_start_with_the_papers_spread(blocks):
    block = ResidualBlock(256, blocks)
    gain = math.sqrt(2 / 1.04) * blocks**-0.25
    assert float(block.conv1.weight.detach().std()) == pytest.approx(gain / math.sqrt(256), rel=0.02)
    assert float(block.conv2.weight.detach().std()) == pytest.approx(gain / math.sqrt(16 * 9), rel=0.02)
    assert not block.conv3.weight.any()


def test_a_network_scales_its_blocks_by_how_many_it_has_in_all():
    g, d = pair(32, 256, blocks=3)
    expected = math.sqrt(2 / 1.04) * (3 * 4) ** -0.25 / math.sqrt(256)
    for player in (g, d):
        stds = [float(m.conv1.weight.detach().std()) for m in player.modules() if isinstance(m, ResidualBlock)]
        assert stds == pytest.approx([expected] * 12, rel=0.02)


def test_all_other_weights_start_with_variance_one_over_their_inputs():
    g, d = pair(64, 256, blocks=1, latent_dim=100, num_classes=50)
    expected = {
        g.embed.weight: 1 / 50,  # a label is one of 50 inputs
        g.linear.weight: 1 / 200,
        g.basis: 1.0,
        d.basis.weight: 1 / 16,
        d.linear.weight: 1 / 256,
        d.embed.weight: 1 / (50 * 256),
        d.from_rgb.weight: 1 / 3,
        g.to_rgb.weight: 1 / 128,
    }
    expected |= {
        layer.weight: 1 / layer.in_channels for layer in [*g.blocks, *d.blocks] if hasattr(layer, "in_channels")
    }
    assert len(expected) == 10  # 256 channels to 128 once in each network
    for weight, variance in expected.items():
        assert float(weight.detach().square().mean()) == pytest.approx(
            variance, rel=0.2 if weight.numel() < 1000 else 0.06
        )


def test_halving_is_the_binomial_filter_by_hand_and_doubling_its_transpose():
    taps = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.einsum("ncabij,i,j->ncab", padded.unfold(2, 4, 2).unfold(3, 4, 2), taps, taps)
    torch.testing.assert_close(Resample(up=False).double()(x), expected)
    small = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    up = Resample(up=True).double()
    # ⟨up(s), x⟩ = 4⟨s, down(x)⟩: what halving takes from a pixel, doubling gives it, at four times the density.
    torch.testing.assert_close((up(small) * x).sum(), 4 * (small * expected).sum())


def test_doubling_is_bilinear_inside_the_border():
    x = torch.randn(2, 3, 5, 5)
    bilinear = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(Resample(up=True)(x)[inside], bilinear[inside])


@pytest.mark.parametrize("up", [True, False])
def test_a_flat_image_stays_flat_inside_the_border(up):
    inside = Resample(up)(torch.ones(1, 2, 8, 8))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize(
    ("resolution", "width", "num_classes", "generator", "discriminator"),
    [
        # The authors' own classes, built at these sizes.
        (32, 32, 0, 110176, 108160),
        (16, 24, 5, 59720, 57024),
        (128, 64, 0, 326576, 322544),
        (128, 64, 7, 331120, 327024),
    ],
)
def test_counts_are_those_of_the_authors_network(resolution, width, num_classes, generator, discriminator):
    g, d = pair(resolution, width, num_classes=num_classes)
    assert (count(g), count(d)) == (generator, discriminator)


def test_the_default_is_the_papers_cifar_network():
    block = 768 * 1536 + 1536 + 1536 * 16 * 9 + 1536 + 1536 * 768
    with torch.device("meta"):
        g, d = pair()
    assert count(g) == 4 * 2 * block + 64 * 768 + 768 * 16 + 768 * 3 == 20_732_160
    assert count(d) == 4 * 2 * block + 3 * 768 + 768 * 16 + 768 == 20_683_776
    assert (g.resolution, g.latent_dim) == (32, 64)


@pytest.mark.parametrize("norm", NORMS)
def test_the_discriminator_runs_under_every_norm_also_with_closed_branches(norm):
    _, d = pair(16, 8, blocks=1)
    normalize(d, norm)
    logits = d(torch.randn(3, 3, 16, 16))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in d.parameters())


def test_the_relativistic_loss_and_both_penalties_have_second_gradients():
    _, d = pair(16, 8, blocks=1)
    open_branches(d)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(d(images).sum(), images, create_graph=True)
    slope.square().sum().backward()
    for name in ("from_rgb", "blocks.0.conv1", "blocks.0.conv2", "blocks.0.conv3", "basis", "linear"):
        assert d.get_submodule(name).weight.grad.abs().max() > 0, name


def test_labels_change_images_and_logits():
    g, d = pair(8, 8, latent_dim=5, num_classes=2)
    z = torch.randn(1, 5).expand(2, 5)
    images = g(z, torch.tensor([0, 1]))
    assert (images[0] - images[1]).abs().max() > 0.01
    logits = d(images[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert (logits[0] - logits[1]).abs() > 1e-3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 48}, r"^resolution is 48; r3gan has 8, 16, 32, 64, 128, 256 pixels: nearest (32|64)"),
        ({"resolution": 4}, r"^resolution is 4; .*nearest 8"),
        ({"width": 20}, r"^width is 20; at 32 pixels r3gan has multiples of 8 channels: nearest 16 or 24"),
        ({"width": 0}, r"^width is 0; .*nearest 8 or 16"),
        ({"resolution": 256, "width": 96}, r"^width is 96; at 256 pixels .* 64 channels: nearest 64 or 128"),
        ({"blocks": 0}, "^blocks is 0; it must be at least 1"),
        ({"latent_dim": 0}, "^latent_dim is 0; it must be at least 1"),
        ({"num_classes": -1}, "^num_classes is -1"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        pair(**options)


def test_labels_are_asked_for_and_refused():
    g, d = pair(8, 8, latent_dim=5, num_classes=2)
    for player, inputs in ((g, torch.zeros(2, 5)), (d, torch.zeros(2, 3, 8, 8))):
        with pytest.raises(ValueError, match="2 classes; give labels"):
            player(inputs)
        with pytest.raises(ValueError, match=r"a label is 2; .*nearest 1"):
            player(inputs, torch.tensor([0, 2]))
    g, d = pair(8, 8, latent_dim=5)
    for player, inputs in ((g, torch.zeros(2, 5)), (d, torch.zeros(2, 3, 8, 8))):
        with pytest.raises(ValueError, match="labels were given"):
            player(inputs, torch.tensor([0, 1]))
