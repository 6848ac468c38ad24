"""BigGAN-deep: the authors' parameter counts, its shortcuts, what the latent and the label reach, what is refused."""

import pytest
import torch
from torch import nn

import poise
from poise.layers import BatchNorm
from poise.models.biggan_deep import DeepDiscriminatorBlock, DeepGeneratorBlock, biggan_deep

RESOLUTIONS = [128, 256, 512]
TINY = {"width": 8, "latent_dim": 5, "num_classes": 4, "embedding_dim": 6}


def count(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


# The first author's PyTorch code, --G_shared --hier --shared_dim 128 --dim_z 128 --G_ch 128 --D_ch 128, counts these.
@pytest.mark.parametrize(("resolution", "counts"), [(128, (50_244_484, 34_590_210)), (256, (55_736_708, 38_247_426))])
def test_parameter_counts_are_the_authors(resolution, counts):
    with torch.device("meta"):
        g, d = biggan_deep(resolution)
    assert (g.latent_dim, count(g), count(d)) == (128, *counts)


@pytest.mark.parametrize("num_classes", [0, 4])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_at_every_resolution(resolution, num_classes):
    with torch.device("meta"):
        g, d = biggan_deep(resolution, **{**TINY, "num_classes": num_classes})
        labels = [torch.zeros(2, dtype=torch.int64)] if num_classes else []
        images = g(torch.zeros(2, 5), *labels)
        logits = d(images, *labels)
    assert images.shape == (2, 3, resolution, resolution)
    assert logits.shape == (2,)
    sizes = [4 << (int(index) + 1) // 2 for index in g.attention]
    assert sizes == [resolution >> (int(index) + 1) // 2 for index in d.attention] == [64]


@pytest.mark.parametrize("num_classes", [0, 4])
def test_gradients_reach_every_parameter(num_classes):
    g, d = biggan_deep(**{**TINY, "num_classes": num_classes})
    for attention in (*g.attention.values(), *d.attention.values()):
        nn.init.ones_(attention.get_parameter("gamma"))  # 0 at first: nothing would pass
    labels = [torch.arange(4)] if num_classes else []
    images = g(torch.randn(4, 5), *labels)
    assert images.abs().max() <= 1
    d(images, *labels).square().sum().backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        in_front_of_a_norm = name.endswith(("conv1.bias", "conv2.bias", "conv3.bias"))
        assert weight.grad.any() or in_front_of_a_norm, name


def test_every_block_sees_latent_and_label():
    g, _ = biggan_deep(**TINY)
    g.eval()
    embedding, seen = g.get_submodule("embedding"), []
    for block in g.blocks:
        block.register_forward_hook(lambda _block, inputs, _output: seen.append(inputs[1]))
    z, labels = torch.randn(4, 5), torch.arange(4)
    images = g(z, labels)
    assert len(seen) == 10
    for condition in seen:
        torch.testing.assert_close(condition, torch.cat([embedding(labels), z], 1))
    assert not torch.allclose(images, g(z, labels.flip(0)))


def test_a_block_without_effect_leaves_the_first_channels():
    block = DeepGeneratorBlock(8, 4, BatchNorm, upsample=True)
    for weight in block.conv4.parameters():
        nn.init.zeros_(weight)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(block(x), x[:, :4].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_block_without_effect_appends_channels():
    block = DeepDiscriminatorBlock(4, 12, downsample=True)
    for weight in block.conv4.parameters():
        nn.init.zeros_(weight)
    x = torch.randn(2, 4, 6, 6)
    smaller = x.unflatten(3, (3, 2)).unflatten(2, (3, 2)).mean((3, 5))
    out = block(x)
    torch.testing.assert_close(out[:, :4], smaller)
    torch.testing.assert_close(out[:, 4:], block.get_submodule("appended")(smaller))
    assert DeepDiscriminatorBlock(4, 4).appended is None


def test_weights_are_orthogonal_at_first():
    for network in biggan_deep(**TINY):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                matrix = layer.weight.detach().flatten(1)
                matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
                torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0, msg=name)


def test_both_networks_run_under_a_spectral_norm():
    g, d = biggan_deep(**TINY)
    poise.normalize(g, "sn")
    poise.normalize(d, "sn")
    labels = torch.arange(2)
    logits = d(g(torch.randn(2, 5), labels), labels)
    logits.sum().backward()
    assert logits.isfinite().all()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 64}, "^resolution is 64; biggan-deep has 128, 256, 512 pixels: nearest 128"),
        ({"width": 0}, "^width is 0; bottlenecks need a multiple of 4: nearest 4"),
        ({"width": 15}, "^width is 15; bottlenecks need a multiple of 4: nearest 16"),
        ({"latent_dim": 0}, "^latent_dim is 0; it must be at least 1"),
        ({"embedding_dim": 0}, "^embedding_dim is 0; it must be at least 1"),
        ({"attention": 63}, "^attention is at 63 pixels; at resolution 128 allowed: 4, 8, 16, 32, 64, 128; near: 64"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        biggan_deep(**{**TINY, **options})


def test_wrong_inputs_are_refused():
    g, d = biggan_deep(**TINY)
    with pytest.raises(ValueError, match=r"^a label is 4; .* has labels 0 to 3: nearest 3"):
        g(torch.zeros(1, 5), torch.tensor([4]))
    with pytest.raises(ValueError, match=r"has 4 classes; give labels y of shape \(1,\)"):
        d(torch.zeros(1, 3, 128, 128))
    with pytest.raises(ValueError, match=r"^latents have shape \(1, 6\); this generator takes \(n, 5\)"):
        g(torch.zeros(1, 6), torch.tensor([0]))
