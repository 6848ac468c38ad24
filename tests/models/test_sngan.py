"""The ResNet pair: the papers' sizes, what labels do in each conditioning, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.models.sngan import SnganDiscriminator, SnganGenerator, sngan
from poise.norms import normalize, normalized_weights

RESOLUTIONS = [32, 48, 64, 128]
CONDITIONINGS = ["projection", "concat", "auxiliary"]


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def tiny(resolution=32, **options):
    return sngan(resolution, width=options.pop("width", 2), latent_dim=5, **options)


def images_of(n, resolution):
    return torch.rand(n, 3, resolution, resolution).mul(2).sub(1)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


# As torch-mimicry 0.1.16 counts its SNGAN and, where there are classes, cGAN-PD with ngf = ndf = 1024 at 128.
@pytest.mark.parametrize(
    ("resolution", "num_classes", "counts"),
    [
        (32, 0, (4_276_739, 1_053_825)),
        (48, 0, (4_878_083, 10_141_441)),
        (64, 0, (12_220_675, 10_141_441)),
        (128, 0, (32_150_787, 29_017_857)),
        (32, 10, (4_304_387, 1_055_105)),
        (128, 20, (32_338_051, 29_038_337)),
    ],
)
def test_parameter_counts(resolution, num_classes, counts):
    with torch.device("meta"):
        g, d = sngan(resolution, num_classes=num_classes)
    assert (count(g), count(d)) == counts


def test_parameter_counts_of_the_other_conditionings():
    with torch.device("meta"):
        _, plain = sngan(128)
        _, concat = sngan(128, num_classes=10, conditioning="concat")
        _, auxiliary = sngan(128, num_classes=10, conditioning="auxiliary")
    # The block that sees 256 + 128 channels has as many between its convolutions (the authors' code).
    wider = (384 * 384 - 256 * 256) * 9 + (384 - 256) + (384 - 256) * 512 * 9 + (384 - 256) * 512
    assert count(concat) - count(plain) == 10 * 128 + wider
    assert count(auxiliary) - count(plain) == 10 * 1024 + 10


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_and_range(resolution, num_classes):
    g, d = tiny(resolution, num_classes=num_classes)
    assert (g.resolution, g.latent_dim, g.num_classes) == (resolution, 5, num_classes)
    assert (d.resolution, d.num_classes) == (resolution, num_classes)
    for n in (1, 3):
        labels = [torch.arange(n) % 3] if num_classes else []
        images = g(50 * torch.randn(n, 5), *labels)
        assert images.shape == (n, 3, resolution, resolution)
        assert images.abs().max() <= 1
        assert d(images, *labels).shape == (n,)
    assert images.std() > 0.01


@pytest.mark.parametrize("conditioning", [None, *CONDITIONINGS])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_gradients_reach_every_parameter(resolution, conditioning):
    labels = [torch.arange(6) % 3] if conditioning else []
    options = {"num_classes": 3, "conditioning": conditioning} if conditioning else {}
    g, d = tiny(resolution, **options)
    images = g(torch.randn(6, 5), *labels)
    outputs = d.heads(images) if conditioning == "auxiliary" else [d(images, *labels)]
    sum(output.square().sum() for output in outputs).backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_each_image_has_its_own_logit_whatever_the_batch():
    g, d = tiny(num_classes=3)
    z, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 1])
    images = g.eval()(z, y)
    torch.testing.assert_close(images, torch.cat([g(z[i : i + 1], y[i : i + 1]) for i in range(4)]))
    together = d(images, y)
    torch.testing.assert_close(together, torch.cat([d(images[i : i + 1], y[i : i + 1]) for i in range(4)]))
    assert together.unique().numel() == 4
    assert torch.equal(together, d(images, y))


def test_labels_matter_to_the_generator_by_gain_and_bias():
    g, _ = tiny(num_classes=3)
    z = torch.randn(1, 5).expand(3, 5)
    y = torch.arange(3)
    same = g.eval()(z, y)
    torch.testing.assert_close(same[0], same[2])  # gains 1 and biases 0 at first
    for table in [weight for name, weight in g.named_parameters() if ".gain" in name or ".norm2.bias" in name]:
        nn.init.normal_(table)
    different = g(z, y)
    assert (different[0] - different[1]).abs().max() > 0.01
    assert (different[1] - different[2]).abs().max() > 0.01


def test_a_projection_adds_the_product_of_label_and_features():
    _, d = tiny(num_classes=3)
    images, y = images_of(3, 32), torch.tensor([2, 0, 2])
    features = []
    d.linear.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    added = torch.stack([d(images, y), d(images, (y + 1) % 3)])
    h = features[0].double()
    for logits, label in zip(added, (y, (y + 1) % 3), strict=True):
        expected = h @ d.linear.weight[0].double() + d.linear.bias.double() + (d.embedding.weight[label] * h).sum(1)
        torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_features_are_summed_over_the_pixels_after_a_relu():
    _, d = tiny()
    maps, summed = [], []
    d.blocks[-1].register_forward_hook(lambda *call: maps.append(call[2]))
    d.linear.register_forward_pre_hook(lambda _, inputs: summed.append(inputs[0]))
    d(images_of(2, 32))
    assert maps[0].shape[2:] == (8, 8)
    torch.testing.assert_close(summed[0], maps[0].clamp(min=0).sum((2, 3)))


@pytest.mark.parametrize(("resolution", "pixels"), [(32, 8), (48, 6), (64, 8), (128, 16)])
def test_a_concatenated_label_is_a_constant_image(resolution, pixels):
    _, d = tiny(resolution, num_classes=3, conditioning="concat")
    seen = []
    for block in d.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    y = torch.tensor([2, 0])
    logits = d(images_of(2, resolution), y)
    length = d.embedding.embedding_dim
    (h,) = [h for h in seen if (h[:, -length:] == h[:, -length:, :1, :1]).all()]
    assert h.shape[2:] == (pixels, pixels)
    torch.testing.assert_close(h[:, -length:], d.embedding(y)[..., None, None].expand(2, length, pixels, pixels))
    assert logits.shape == (2,)


def test_labels_matter_to_a_concatenating_discriminator():
    _, d = tiny(num_classes=3, conditioning="concat")
    x = images_of(1, 32).expand(3, -1, -1, -1)
    assert d(x, torch.arange(3)).unique().numel() == 3


def test_an_auxiliary_classifier_is_a_second_head():
    _, d = tiny(width=8, num_classes=4, conditioning="auxiliary")
    images = images_of(3, 32)
    logits, classes = d.heads(images)
    assert classes.shape == (3, 4)
    torch.testing.assert_close(d.class_logits(images), classes)
    for given in ([], [torch.tensor([0, 3, 1])]):  # labels do not change what is real
        torch.testing.assert_close(d(images, *given), logits)
    F.cross_entropy(classes, torch.tensor([0, 3, 1])).backward()
    assert d.blocks[0].conv1.weight.grad.abs().sum() > 0
    assert d.linear.weight.grad is None


def test_initial_weights_are_the_authors():
    # Uniform on ±gain·√(6 / (fan_in + fan_out)): gain √2 in residual branches, 1 elsewhere.
    g, d = sngan(32, width=16, num_classes=40)
    checked = 0
    for network in (g, d):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                pixels = layer.weight[0, 0].numel()
                gain = math.sqrt(2) if "conv" in name else 1
                bound = gain * math.sqrt(6 / (sum(layer.weight.shape[:2]) * pixels))
                assert 0.8 * bound < layer.weight.abs().max() <= bound, name
                assert layer.bias is not None
                assert not layer.bias.any(), name
                checked += 1
    assert checked == 2 + 3 * 3 + 1 + 4 * 2 + 2
    bound = math.sqrt(6 / (40 + 16))
    assert 0.9 * bound < d.embedding.weight.abs().max() <= bound


def test_bilinear_doubling_is_smoother_than_the_nearest_pixel():
    g, _ = tiny()
    smooth, _ = tiny(upsample="bilinear")
    smooth.load_state_dict(g.state_dict())
    seen = []
    for network in (g, smooth):
        network.blocks[0].conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z = torch.randn(2, 5)
    images = [network.eval()(z) for network in (g, smooth)]
    assert not torch.allclose(*images)
    assert torch.equal(seen[0], seen[0][..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(seen[1][..., 0, 0], seen[0][..., 0, 0])
    assert seen[1].diff(dim=3).abs().amax() < seen[0].diff(dim=3).abs().amax()


def test_rectified_shortcuts_see_the_input_after_its_relu():
    _, d = tiny()
    _, rectified = sngan(32, 2, 5, rectified_shortcuts=True)
    rectified.load_state_dict(d.state_dict())
    maps: dict[SnganDiscriminator, list[torch.Tensor]] = {d: [], rectified: []}
    for network, seen in maps.items():
        network.blocks[0].register_forward_hook(lambda *call, seen=seen: seen.append(call[2]))
        network.get_submodule("blocks.1.shortcut").register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0])
        )
        network(images_of(2, 32))
    for network, (before, at_shortcut) in maps.items():
        assert before.min() < 0
        assert torch.equal(at_shortcut, F.avg_pool2d(before if network is d else before.clamp(min=0), 2))


@pytest.mark.parametrize("norm", ["none", "sn", "bssn", "wn-strict", "clip", "orthogonal"])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_discriminator_runs_under_norms(norm, conditioning):
    _, d = tiny(num_classes=3, conditioning=conditioning)
    layers = [layer for layer in d.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)]
    normalize(d, norm)
    assert len(list(normalized_weights(d))) == (0 if norm == "none" else len(layers))
    images = images_of(2, 32).requires_grad_()
    logits = d(images, torch.tensor([0, 2]))
    logits.sum().backward()
    assert logits.isfinite().all()
    for tensor in [images, *(weight for name, weight in d.named_parameters() if "classifier" not in name)]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 96}, r"^resolution is 96; .* has 32, 48, 64, 128 pixels: nearest 64$"),
        ({"resolution": 0}, "^resolution is 0; .*: nearest 32$"),
        ({"width": 0}, "^width is 0; it must be at least 1"),
        ({"latent_dim": 0}, "^latent_dim is 0; it must be at least 1"),
        ({"num_classes": -1}, "^num_classes is -1; it must be 0"),
        ({"conditioning": "projecton"}, r"^unknown conditioning 'projecton'; did you mean 'projection'\?$"),
        ({"upsample": "cubic"}, "^unknown upsample 'cubic'; "),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        sngan(**options)


def test_attention_to_an_image_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"^attention is 20; the blocks have 8, 16, 32 pixels: nearest 16$"):
        SnganGenerator(32, width=4, attention=20)
    with pytest.raises(ValueError, match=r"^attention is 32; the blocks have 8, 16 pixels: nearest 16$"):
        SnganDiscriminator(32, width=8, attention=32)


@pytest.mark.parametrize("conditioning", ["projection", "concat"])
def test_wrong_inputs_are_refused(conditioning):
    g, d = tiny(num_classes=3, conditioning=conditioning)
    with pytest.raises(ValueError, match=r"^latents have shape \(2, 4\); this generator takes \(n, 5\)"):
        g(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^images have shape .*takes \(n, 3, 32, 32\)"):
        d(torch.zeros(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64))
    for player, inputs in ((g, torch.zeros(2, 5)), (d, torch.zeros(2, 3, 32, 32))):
        with pytest.raises(ValueError, match=r"has 3 classes; give labels y of shape \(2,\)"):
            player(inputs)
        with pytest.raises(ValueError, match=r"a label is 3; .* has labels 0 to 2: nearest 2"):
            player(inputs, torch.tensor([0, 3]))
    for ask in (d.heads, d.class_logits):
        with pytest.raises(ValueError, match=f"needs? conditioning 'auxiliary'; .* has conditioning '{conditioning}'"):
            ask(torch.zeros(2, 3, 32, 32))


def test_an_auxiliary_classifiers_labels_are_checked_where_given():
    _, d = tiny(num_classes=3, conditioning="auxiliary")
    with pytest.raises(ValueError, match=r"a label is -1; .* nearest 0"):
        d(torch.zeros(2, 3, 32, 32), torch.tensor([-1, 0]))


def test_labels_for_networks_without_classes_are_refused():
    g, d = tiny()
    labels = torch.zeros(2, dtype=torch.int64)
    for player, inputs in ((g, torch.zeros(2, 5)), (d, torch.zeros(2, 3, 32, 32))):
        with pytest.raises(ValueError, match=r"labels were given to .*, which has no classes .*leave y out"):
            player(inputs, labels)
    with pytest.raises(ValueError, match="this discriminator has no classes"):
        d.heads(torch.zeros(2, 3, 32, 32))
