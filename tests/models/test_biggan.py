"""BigGAN: the authors' parameter counts, what each part of the latent and the label reaches, and what is refused."""

import pytest
import torch
from torch import nn

import poise
from poise.models import create
from poise.models.biggan import BigGanDiscriminator, BigGanGenerator, attended, biggan
from poise.norms import normalized_weights

RESOLUTIONS = [32, 64, 128, 256, 512]
TINY = {"width": 8, "num_classes": 5, "embedding_dim": 6}
BLOCKS = {32: 3, 64: 4, 128: 5, 256: 6, 512: 7}


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def tiny(resolution=32, **options):
    return biggan(resolution, **{**TINY, **options})


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


# The first author's PyTorch code, --G_shared --hier --shared_dim 128 --G_ch 96 --D_ch 96, counts these.
@pytest.mark.parametrize(
    ("resolution", "latent_dim", "counts"), [(128, 120, (70_433_988, 87_982_370)), (256, 140, (82_235_844, 99_225_890))]
)
def test_parameter_counts_are_the_authors(resolution, latent_dim, counts):
    with torch.device("meta"):
        g, d = biggan(resolution)
    assert (g.latent_dim, count(g), count(d)) == (latent_dim, *counts)


def test_parameter_counts_of_the_papers_ablation():
    # Table 1 of the paper, in millions: gains per class, a shared embedding, skip-z too.
    with torch.device("meta"):
        pairs = [
            biggan(128, shared_embedding=shared, skip_z=skip)
            for shared, skip in ((False, False), (True, False), (True, True))
        ]
    assert [(count(g) + count(d)) / 1e6 for g, d in pairs] == pytest.approx([173.5, 160.6, 158.3], abs=0.2)


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_at_every_resolution(resolution, num_classes):
    with torch.device("meta"):
        g, d = tiny(resolution, num_classes=num_classes)
        labels = [torch.zeros(2, dtype=torch.int64)] if num_classes else []
        images = g(torch.zeros(2, g.latent_dim), *labels)
        logits = d(images, *labels)
    assert images.shape == (2, 3, resolution, resolution)
    assert logits.shape == (2,)
    assert (g.latent_dim, g.num_classes) == (20 * (BLOCKS[resolution] + 1), num_classes)
    assert (len(g.attention), len(d.attention)) == (resolution >= 64, resolution >= 128)  # 64 × 64, where there is one


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skip_z": False},
        {"skip_z": False, "shared_embedding": False},
        {"num_classes": 0},
        {"num_classes": 0, "skip_z": False},
        {"attention": 16, "rectified_shortcuts": True},
    ],
)
def test_gradients_reach_every_parameter(options):
    g, d = tiny(**options)
    for attention in (*g.attention.values(), *d.attention.values()):
        nn.init.ones_(attention.get_parameter("gamma"))  # 0 at first: nothing would pass
    labels = [torch.arange(6) % 5] if g.num_classes else []
    images = g(torch.randn(6, g.latent_dim), *labels)
    assert images.abs().max() <= 1
    d(images, *labels).square().sum().backward()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any() or name.endswith("conv1.bias"), name  # a bias before a batch norm moves nothing


@pytest.mark.parametrize("chunk", range(4))
def test_each_chunk_enters_at_its_own_layer(chunk):
    g, _ = tiny()
    g.eval()
    entered = []
    for block in g.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: entered.append(output))
    z = torch.randn(1, 80)
    other = z.clone()
    other[:, 20 * chunk : 20 * (chunk + 1)] += 1
    labels = torch.tensor([2])
    assert not torch.equal(g(z, labels), g(other, labels))
    changed = [not torch.equal(entered[i], entered[3 + i]) for i in range(3)]
    first = max(chunk - 1, 0)  # chunk 0 enters before the first block, chunk k into block k − 1
    assert changed == [index >= first for index in range(3)]


@pytest.mark.parametrize("options", [{}, {"skip_z": False}, {"skip_z": False, "shared_embedding": False}])
def test_labels_matter(options):
    g, d = tiny(**options)
    for norm in g.modules():  # gains per class begin equal
        if isinstance(norm, nn.Embedding):
            nn.init.normal_(norm.weight)
    z, x = torch.randn(1, g.latent_dim).expand(5, -1), torch.randn(1, 3, 32, 32).expand(5, -1, -1, -1)
    labels = torch.arange(5)
    assert len(g.eval()(z, labels).flatten(1).unique(dim=0)) == 5
    assert len(d(x, labels).unique()) == 5


def test_the_projection_adds_an_inner_product_per_class():
    _, d = tiny()
    x, labels = torch.randn(5, 3, 32, 32), torch.arange(5)
    seen = []
    d.linear.register_forward_hook(lambda _layer, inputs, output: seen.append((inputs[0], output)))
    logits = d(x, labels)
    features, plain = seen[0]
    torch.testing.assert_close(logits, plain[:, 0] + (features @ d.embedding.weight.T).diagonal())


def test_weights_are_orthogonal_at_first():
    for network in tiny(attention=16):
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                matrix = layer.weight.detach().flatten(1)
                matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
                torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0, msg=name)


def test_gains_per_class_begin_at_one():
    g, _ = tiny(shared_embedding=False, skip_z=False)
    z = torch.randn(1, 128).expand(5, -1)
    assert len(g.eval()(z, torch.arange(5)).flatten(1).unique(dim=0)) == 1


@pytest.mark.parametrize("attention", [None, 16, (8, 16), 0, ()])
def test_attention_stands_where_it_is_asked_for(attention):
    g, d = tiny(attention=attention)
    sizes = [16] if attention == 16 else list(attention or ())
    assert [8 << int(index) for index in g.attention] == sizes
    assert [32 >> (int(index) + 1) for index in d.attention] == sizes[::-1]


def test_rectified_shortcuts_are_those_of_rectified_features():
    torch.manual_seed(0)
    plain = BigGanDiscriminator(32, 4, num_classes=0)
    rectified = BigGanDiscriminator(32, 4, num_classes=0, rectified_shortcuts=True)
    rectified.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    h = plain.blocks[0](x)
    for block in plain.blocks[1:]:
        h = block(h.relu())
    torch.testing.assert_close(rectified(x), plain.linear(h.relu().sum((2, 3)))[:, 0])
    assert not torch.allclose(rectified(x), plain(x))


@pytest.mark.parametrize("num_classes", [0, 5])
def test_both_networks_run_under_a_spectral_norm(num_classes):
    g, d = tiny(num_classes=num_classes)
    poise.normalize(g, "sn")
    poise.normalize(d, "sn")
    labels = [torch.arange(4)] if num_classes else []
    logits = d(g(torch.randn(4, g.latent_dim), *labels), *labels)
    logits.sum().backward()
    assert logits.isfinite().all()
    for name, weight in [*g.named_parameters(), *d.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_a_norm_leaves_out_what_a_label_chooses_in_the_generator():
    for options, left_out in (({}, 1), ({"skip_z": False, "shared_embedding": False}, 2 * 2 * 3)):
        g, d = create("biggan", resolution=32, norm="sn", g_norm="sn", **{**TINY, **options})
        for network, plain in ((g, left_out), (d, 0)):
            layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)]
            assert len(layers) - len(list(normalized_weights(network))) == plain
        assert not any(weight.name.startswith("embedding") for weight in normalized_weights(g))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resolution": 48}, "^resolution is 48; biggan has 32, 64, 128, 256, 512 pixels: nearest (32|64)"),
        ({"width": 0}, "^width is 0; it must be at least 1"),
        ({"latent_dim": 0}, "^latent_dim is 0; it must be at least 1"),
        ({"latent_dim": 82}, "^latent_dim is 82; skip_z splits it among 4 layers: nearest 80 or 84"),
        ({"embedding_dim": 0}, "^embedding_dim is 0; it must be at least 1"),
        ({"num_classes": -1}, "^num_classes is -1; it must be 0"),
        ({"shared_embedding": False}, "^skip_z needs shared_embedding: .*; give skip_z=False"),
        ({"attention": 20}, "^attention is at 20 pixels; at resolution 32 allowed: 4, 8, 16, 32; near: 16"),
        ({"attention": [16, 64]}, "^attention is at 64 pixels; .*; near: 32"),
        ({"multiples": (4, 4, 4)}, r"^multiples are \(4, 4, 4\); resolution 32 takes 4, from 1 on, as \(4, 4, 4, 4\)"),
    ],
)
def test_wrong_options_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        tiny(**options)


@pytest.mark.parametrize("label", [-1, 5, 1000])
def test_unknown_labels_are_refused(label):
    g, d = tiny()
    labels = torch.tensor([0, label])
    for network, inputs in ((g, torch.zeros(2, 80)), (d, torch.zeros(2, 3, 32, 32))):
        with pytest.raises(
            ValueError, match=f"^a label is {label}; .* has labels 0 to 4: nearest {min(max(label, 0), 4)}"
        ):
            network(inputs, labels)
        with pytest.raises(ValueError, match=r"has 5 classes; give labels y of shape \(2,\)"):
            network(inputs)


@pytest.mark.parametrize("shape", [(2, 79), (2, 81), (80,)])
def test_wrong_latents_are_refused(shape):
    g, _ = tiny()
    with pytest.raises(ValueError, match=r"^latents have shape .*; this generator takes \(n, 80\)"):
        g(torch.zeros(shape), torch.zeros(2, dtype=torch.int64))


def test_the_sizes_to_attend_at():
    assert attended(None, 32) == (64,)
    assert attended([32, 0], 128) == (32,)


def test_multiples_set_the_generators_channels():
    g = BigGanGenerator(32, 2, num_classes=0, multiples=(5, 4, 3, 2))
    assert [len(g.get_parameter(f"blocks.{i}.conv2.weight")) for i in range(3)] == [8, 6, 4]
    assert g.linear.out_features == 16 * 10
