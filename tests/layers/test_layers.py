"""Every layer that torch lacks, against its formula written out in float64, or against torch's own parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.layers import (
    BatchNorm,
    ClassBatchNorm,
    ConditionBatchNorm,
    DiscriminatorBlock,
    GeneratorBlock,
    SelfAttention,
    TranslatedReLU,
)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def made(kind, *options, **named):
    """A layer, whose parts mypy need not know."""
    return kind(*options, **named)


def randomize(module):
    """Every parameter, also those that start at 0 or 1, in float64."""
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.normal_()
    return module


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# Translated ReLU


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2), (5, 3, 2, 2, 2)])
@pytest.mark.parametrize("slope", [None, 0.0, 0.25, 1.0])
def test_a_translated_relu_is_its_formula_in_both_forms(slope, shape):
    layer, x = TranslatedReLU(3, slope).double(), 2 * random(*shape)
    with torch.no_grad():
        layer.threshold.copy_(torch.tensor([-1.0, 0.0, 0.7]))
    at = layer.threshold.view(-1, *[1] * (len(shape) - 2))
    below = 0.0 if slope is None else slope
    torch.testing.assert_close(layer(x), torch.clamp(x - at, min=0) + below * torch.clamp(x - at, max=0) + at)


@pytest.mark.parametrize("slope", [None, 0.25])
def test_a_translated_relus_gradients_agree_with_finite_differences(slope):
    layer, x = TranslatedReLU(3, slope).double(), random(4, 3, 2, 2).requires_grad_()
    names = list(dict(layer.named_parameters()))
    values = [torch.tensor([-1.0, 0.1, 0.7]).double(), torch.tensor([0.2, 0.5, 0.9]).double()][: len(names)]
    values = [value.requires_grad_() for value in values]

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *values))


@pytest.mark.parametrize(("given", "used"), [(-0.5, 0.0), (1.5, 1.0), (0.3, 0.3)])
def test_a_translated_relus_slope_stays_within_0_and_1(given, used):
    layer = made(TranslatedReLU, 2, 0.25)
    with torch.no_grad():
        layer.slope.fill_(given)
    x = -torch.ones(1, 2)
    torch.testing.assert_close(layer(x), used * x)


@pytest.mark.parametrize("slope", [None, 0.25])
def test_a_translated_relu_is_at_first_torchs_own(slope):
    x = torch.randn(4, 3, 5)
    assert torch.equal(TranslatedReLU(3, slope)(x), F.leaky_relu(x, slope) if slope else x.relu())


@pytest.mark.parametrize(
    ("channels", "slope", "told"),
    [
        (0, None, "^channels is 0; it must be at least 1"),
        (2, -0.1, r"^slope is -0.1; it must lie in \[0, 1\]"),
        (2, 1.1, "^slope is 1.1"),
        (2, float("nan"), "^slope is nan"),
    ],
)
def test_a_wrong_translated_relu_is_refused(channels, slope, told):
    with pytest.raises(ValueError, match=told):
        TranslatedReLU(channels, slope)


# Self-attention


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 6), (5, 3)])
def test_self_attention_is_its_softmax_written_out(rows, columns):
    layer, x = randomize(SelfAttention(16)), random(3, 16, rows, columns)

    def maps(conv, pooled):
        out = torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], x)
        if pooled:
            out = torch.stack([out[..., a::2, b::2][..., : rows // 2, : columns // 2] for a in (0, 1) for b in (0, 1)])
            out = out.amax(0)
        return out.flatten(2)

    query, key, value = maps(layer.theta, False), maps(layer.phi, True), maps(layer.g, True)
    assert (query.shape[1], key.shape[1], value.shape[1]) == (2, 2, 8)
    match = torch.einsum("ncq,nck->nqk", query, key)  # not divided by the root of its length
    weights = match.exp() / match.exp().sum(2, keepdim=True)
    attended = torch.einsum("nqk,nck->ncq", weights, value).view(3, 8, rows, columns)
    expected = x + layer.gamma * torch.einsum("oi,nihw->nohw", layer.o.weight[:, :, 0, 0], attended)
    torch.testing.assert_close(layer(x), expected)


def test_self_attention_is_at_first_the_identity_and_gamma_learns_at_once():
    layer, x = made(SelfAttention, 8), torch.randn(2, 8, 4, 4)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gamma.grad.abs() > 0


def test_self_attention_follows_a_turned_image():
    # Neither the match nor the sum knows places, and pooling 2×2 follows a quarter turn.
    layer, x = randomize(SelfAttention(8)), random(2, 8, 6, 6)
    torch.testing.assert_close(layer(x.rot90(1, (2, 3))), layer(x).rot90(1, (2, 3)))


@pytest.mark.parametrize(("channels", "near"), [(0, 8), (7, 8), (20, 16), (-8, 8)])
def test_self_attention_of_wrong_channels_is_refused(channels, near):
    with pytest.raises(ValueError, match=f"^channels is {channels}; .*nearest {near}$"):
        SelfAttention(channels)


# Batch norms

BATCH_NORMS = {
    "plain": (lambda: BatchNorm(4), lambda: None),
    "class": (lambda: ClassBatchNorm(4, 3), lambda: torch.tensor([0, 2, 2, 1, 0])),
    "condition": (lambda: ConditionBatchNorm(4, 6), lambda: random(5, 6)),
}


def gain_and_bias(layer, kind, condition):
    """Each image's gain and bias, (n, 4, 1, 1), from the formulas."""
    if kind == "plain":
        gain, bias = layer.norm.weight.expand(5, 4), layer.norm.bias.expand(5, 4)
    elif kind == "class":
        gain = torch.stack([layer.gain.weight[int(label)] for label in condition])
        bias = torch.stack([layer.bias.weight[int(label)] for label in condition])
    else:
        gain, bias = 1 + condition @ layer.gain.weight.T, condition @ layer.bias.weight.T
    return gain[:, :, None, None], bias[:, :, None, None]


@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_a_batch_norm_is_torchs_with_its_own_gain_and_bias(kind):
    make, draw = BATCH_NORMS[kind]
    layer, condition, x = randomize(make()), draw(), 3 * random(5, 4, 6, 6) + 1
    gain, bias = gain_and_bias(layer, kind, condition)
    mean, variance = torch.zeros(4).double(), torch.ones(4).double()
    for _ in range(2):
        normalized = F.batch_norm(x, mean, variance, training=True)
        torch.testing.assert_close(layer(x, condition), gain * normalized + bias)
    torch.testing.assert_close((layer.norm.running_mean, layer.norm.running_var), (mean, variance))
    layer.eval()
    torch.testing.assert_close(layer(x, condition), gain * F.batch_norm(x, mean, variance) + bias)


@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_a_batch_norm_gives_at_first_mean_0_and_variance_1(kind):
    make, draw = BATCH_NORMS[kind]
    layer = made(make).double()
    condition = draw()
    if kind == "condition":
        condition = torch.zeros_like(condition)  # its gain is 1 + Ac
    out = layer(5 * random(5, 4, 20, 20) + 2, condition)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(out.var((0, 2, 3), correction=0), torch.ones(4).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["class", "condition"])
def test_gradients_reach_the_conditions_gain_and_bias(kind):
    make, draw = BATCH_NORMS[kind]
    layer = made(make).double()
    layer(random(5, 4, 3, 3), draw()).square().sum().backward()
    for weight in (layer.gain.weight, layer.bias.weight):
        assert (weight.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_a_batch_norm_becomes_cross_replica_by_torchs_own_function(kind):
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(BATCH_NORMS[kind][0]())
    assert isinstance(layer.norm, nn.SyncBatchNorm)


# Residual blocks


def conv(layer, x):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[2] // 2)


def mean2x2(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


@pytest.mark.parametrize("upsample", ["nearest", "bilinear", None])
@pytest.mark.parametrize("outputs", [4, 6])
def test_a_generator_block_is_its_composition(outputs, upsample):
    block = randomize(GeneratorBlock(4, outputs, BatchNorm, upsample))
    x = random(5, 4, 6, 6)

    def larger(x):
        if upsample is None:
            return x
        if upsample == "nearest":
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def normed(layer, x):
        return F.batch_norm(x, None, None, layer.norm.weight, layer.norm.bias, training=True).clamp(min=0)

    h = conv(block.conv1, larger(normed(block.norm1, x)))
    h = conv(block.conv2, normed(block.norm2, h))
    plain = upsample is None and outputs == 4
    # The shortcut is enlarged first and then convolved, as in the paper.
    shortcut = x if plain else conv(block.shortcut, larger(x))
    torch.testing.assert_close(block(x), h + shortcut)
    assert isinstance(block.shortcut, nn.Identity) == plain


def test_a_generator_block_hands_its_condition_to_both_norms():
    block = made(GeneratorBlock, 4, 4, lambda channels: ClassBatchNorm(channels, 2)).double()
    labels, x = torch.tensor([0, 1, 1, 0]), random(4, 4, 4, 4)
    before = block(x, labels)
    for norm in (block.norm1, block.norm2):
        with torch.no_grad():
            norm.bias.weight[1] += 1
        after = block(x, labels)
        changed = (after - before).flatten(1).abs().amax(1) > 1e-6
        assert changed[labels == 1].all()
        before = after


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("downsample", [False, True])
@pytest.mark.parametrize(("outputs", "hidden"), [(4, None), (6, None), (6, 5)])
def test_a_discriminator_block_is_its_composition(outputs, hidden, downsample, first):
    block = randomize(DiscriminatorBlock(4, outputs, hidden, downsample, first))
    assert block.conv1.out_channels == (hidden or 4)
    x = random(3, 4, 6, 6)
    h = conv(block.conv2, conv(block.conv1, x if first else x.clamp(min=0)).clamp(min=0))
    plain = not downsample and outputs == 4
    shortcut = x if plain else conv(block.shortcut, x)
    expected = mean2x2(h) + mean2x2(shortcut) if downsample else h + shortcut
    torch.testing.assert_close(block(x), expected)
    assert isinstance(block.shortcut, nn.Identity) == plain
