"""The papers' theorems, held against networks: how large gradients can get, and the variance that weights then have.

Lin et al. 2021 (arXiv 2009.02773). For a network D of 1-Lipschitz homogeneous activations and no biases, the gradient
by layer t's linear map, at its input h and with the gradient δ at its output, is δhᵀ. With every operator norm at most
s, ``‖h‖ ≤ s^(t−1)·‖x‖`` and ``‖δ‖ ≤ s^(L−t)``, hence ``‖∇D‖ ≤ s^(L−1)·‖x‖`` by each layer, √L times that by all.

A convolution's map is made of its kernel, each entry of which stands in it once for each position. By the kernel K, tap
q of which reads the inputs ``h_q`` (channels × positions), the gradient is ``G_q = δ·h_qᵀ``, so that

    ``‖G‖² = Σ_q ‖δ·h_qᵀ‖² ≤ ‖δ‖² · Σ_q ‖h_q‖² ≤ ‖δ‖² · M·‖h‖²``,

M being how many taps, over all positions, read one pixel: the kernel's area over that of the stride, as a rule. A
transposed convolution is the same with δ and h exchanged: M counts the taps that write one pixel. So by the kernel
each layer's bound is √M times the linear one's, and √(ΣM)·s^(L−1)·‖x‖ that of all; a linear layer's M is 1. All of it
is about the effective weight, ``s·W/σ``.
"""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from poise.norms import denormalize, normalize, normalized_weights

SEEDS = st.integers(0, 2**31)
SLACK = 1 + 1e-3  # power iteration finds σ from below, slowly where two singular values are close


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


# Gradients


def taps_at_a_pixel(layer, size):
    """M: how many taps read a pixel of the layer's input, of the given size, or write one of a transposed one's output.

    At most, counted with a kernel of ones on one channel.
    """
    if isinstance(layer, nn.Linear):
        return 1.0
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "output_padding")
    options = {name: getattr(layer, name) for name in names if layer.transposed or name != "output_padding"}
    counter = type(layer)(1, 1, bias=False, **options).double()
    nn.init.ones_(counter.weight)
    pixels = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    count = counter(pixels)
    if not layer.transposed:
        (count,) = torch.autograd.grad(count.sum(), pixels)
    return count.max().item()


def reuse(network, x):
    """M of every layer with a weight, shape (L,)."""
    found = []
    for layer in network:
        if hasattr(layer, "weight"):
            found.append(taps_at_a_pixel(layer, x.shape[2:]))
        x = layer(x)
    return torch.tensor(found, dtype=torch.float64)


def gradients(network, x):
    """‖∇D(x)‖ by each effective weight, shape (L,)."""
    plain = denormalize(copy.deepcopy(network))
    weights = list(plain.parameters())
    return torch.stack([gradient.norm() for gradient in torch.autograd.grad(plain(x).sum(), weights)])


@torch.no_grad()
def settle(network, forward):
    """Run as many rounds of power iteration as the effective weights need to stand still."""
    weights: list[Any] = list(normalized_weights(network))
    before = torch.zeros((), dtype=torch.float64)
    for _ in range(200):
        for _ in range(10):
            forward()
            for weight in weights:
                weight.original.mul_(1)  # an update: the next forward runs a round
        now = torch.cat([weight.layer.weight.flatten() for weight in weights])
        if torch.allclose(now, before, rtol=1e-8, atol=0):
            break
        before = now


def normalized(network, x, norm, **options):
    """The network normalized, its σ settled."""
    settle(normalize(network, norm, **options), lambda: network(x))
    return network


@st.composite
def a_convolution(draw, channels, size):
    """A convolution of any kind that takes images of this size, of at most 3 channels and not many more pixels."""
    groups = draw(st.sampled_from([n for n in (1, 2, 3) if channels % n == 0]))
    out = groups * draw(st.integers(1, 3 // groups))
    options = {"groups": groups, "bias": False, "stride": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2))}
    if math.prod(size) <= 25 and draw(st.booleans()):
        options["output_padding"] = draw(st.integers(0, max(options["stride"], options["dilation"]) - 1))
        return nn.ConvTranspose2d(channels, out, draw(st.integers(1, 3)), **options)
    options["padding"] = draw(st.integers(0, min(*size, 2) - 1))
    options["padding_mode"] = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    widest = min((n + 2 * options["padding"] - 1) // options["dilation"] + 1 for n in size)
    return nn.Conv2d(channels, out, draw(st.integers(1, min(widest, 4))), **options)


@st.composite
def random_networks(draw):
    """A scalar network of convolutions, then linear layers, with an input; float64, random in all that may vary."""
    torch.manual_seed(draw(SEEDS))
    slope = draw(st.sampled_from([0.0, 0.1, 0.7, -0.5, 1.0]))
    channels, size = draw(st.integers(1, 3)), (draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    x = torch.randn(1, channels, *size)
    layers, features = [], x
    for _ in range(draw(st.integers(0, 3))):
        layers += [draw(a_convolution(features.shape[1], features.shape[2:])), nn.LeakyReLU(slope)]
        features = layers[-2](features)
    layers.append(nn.Flatten())
    widths = [features.numel(), *draw(st.lists(st.integers(1, 8), max_size=4)), 1]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers[:-1]).double(), x.double()


@pytest.mark.parametrize(
    ("norm", "options"), [("sn", {}), ("ssn", {"scale": 1.6}), ("bssn", {"scale": 0.7})], ids=["sn", "ssn", "bssn"]
)
@given(made=random_networks())
@settings(max_examples=20)
def test_gradients_of_random_networks_are_bounded(made, norm, options):
    network, x = made
    shares = reuse(network, x)
    normalized(network, x, norm, operator="conv", **options)
    found = gradients(network, x)
    most = options.get("scale", 1.0) ** (len(shares) - 1) * x.norm()
    assert (found <= SLACK * shares.sqrt() * most).all()
    assert found.norm() <= SLACK * shares.sum().sqrt() * most


def rank_one(widths):
    """Linear layers of norm 3, each of which takes one direction to the next one's; with an input along the first."""
    directions = [nn.functional.normalize(torch.rand(width, dtype=torch.float64) + 0.1, dim=0) for width in widths]
    layers = []
    for before, after in pairwise(directions):
        layers += [nn.Linear(len(before), len(after), bias=False).double(), nn.ReLU()]
        layers[-2].weight.data = 3 * torch.outer(after, before)
    return nn.Sequential(*layers[:-1]), directions[0][None]


def identities(depth, width=3):
    """Linear layers that pass their positive input on as it is, then one along it."""
    x = torch.rand(1, width, dtype=torch.float64)
    layers = []
    for weight in [torch.eye(width, dtype=torch.float64)] * depth + [x / x.norm()]:
        layers += [nn.Linear(width, len(weight), bias=False).double(), nn.ReLU()]
        layers[-2].weight.data = weight
    return nn.Sequential(*layers[:-1]), x


def boxes(*kernels, channels=2):
    """Box filters of (kernel, stride) on a circle, then the mean: a constant image passes each as its best wave."""
    x = torch.ones(1, channels, 8, 8, dtype=torch.float64)
    layers: list[Any] = []
    features = x
    for kernel, stride in kernels:
        options = {"stride": stride, "padding": (kernel - stride) // 2, "padding_mode": "circular", "bias": False}
        layers += [nn.Conv2d(channels, channels, kernel, **options).double(), nn.ReLU()]
        layers[-2].weight.data.fill_(1)
        features = layers[-2](features)
    linear = nn.Linear(features.numel(), 1, bias=False).double()
    nn.init.ones_(linear.weight)
    return nn.Sequential(*layers, nn.Flatten(), linear), x


ALIGNED = {
    "rank one, shallow": lambda: rank_one([5, 1]),
    "rank one, deep": lambda: rank_one([4, 7, 3, 6, 2, 5, 4, 8, 3, 1]),
    "identities": lambda: identities(4),
    "3×3 boxes": lambda: boxes((3, 1), (3, 1), (3, 1)),
    "boxes of the CNN's strides": lambda: boxes((3, 1), (4, 2), (3, 1), (4, 2)),
    "patches": lambda: boxes((2, 2), (1, 1), (2, 2)),
    "wide boxes": lambda: boxes((5, 1), (6, 2)),
}


@pytest.mark.parametrize("scale", [1.0, 1.6, 0.7])
@pytest.mark.parametrize("kind", ALIGNED)
def test_aligned_layers_attain_the_bound(kind, scale):
    network, x = ALIGNED[kind]()
    shares = reuse(network, x)
    found = gradients(normalized(network, x, "ssn", operator="conv", scale=scale), x)
    most = scale ** (len(shares) - 1) * x.norm()
    torch.testing.assert_close(found, shares.sqrt() * most, rtol=1e-5, atol=0)
    assert found.norm().item() == pytest.approx((shares.sum().sqrt() * most).item(), rel=1e-5)


def test_without_a_norm_the_gradient_explodes_with_depth():
    for depth in (2, 5, 10):
        network, x = rank_one([4] * depth + [1])
        torch.testing.assert_close(gradients(network, x), torch.full((depth,), 3.0 ** (depth - 1)).double())


def test_the_reshaped_weights_norm_lets_each_convolution_stretch_by_the_root_of_its_kernels_area():
    # The linear bound times √(k_h·k_w) for each other convolution: why the strict form exists.
    network, x = boxes((3, 1), (3, 1), (5, 1))
    found = gradients(normalized(network, x, "sn"), x)
    expected = x.norm() * torch.tensor([3 * 3 * 5, 3 * 3 * 5, 3 * 3 * 5, 3 * 3 * 5], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


# Variance

DISTRIBUTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "normal": torch.randn,
    "uniform": lambda *shape, **kind: 2 * torch.rand(*shape, **kind) - 1,
    "signs": lambda *shape, **kind: torch.randn(*shape, **kind).sign(),
    "Laplace": lambda *shape, **kind: torch.randn(*shape, **kind) * (-2 * torch.rand(*shape, **kind).log()).sqrt(),
}


def mean_square(layer, weight, norm):
    """Of the effective weight's entries, with σ as the norm finds it."""
    layer.weight = nn.Parameter(weight.clone())
    settle(normalize(layer, norm), lambda: layer.weight)
    return layer.weight.square().mean().item()


@pytest.mark.parametrize("shape", [(3, 3), (4, 32), (32, 4), (16, 16), (8, 100), (100, 8), (64, 64)], ids=str)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_variance_of_normalized_entries_lies_between_the_papers_bounds(distribution, shape):
    m, n = shape
    draws = [DISTRIBUTIONS[distribution](m, n, dtype=torch.float64) for _ in range(5)]
    # Entries of zero mean and either sign have, divided by σ, zero mean too: their variance is that of the squares.
    variance = sum(mean_square(nn.Linear(n, m), weight, "sn") for weight in draws) / len(draws)
    # The constant L: σ ≈ √m + √n for such entries of variance 1, which is at most 2·√max(m, n).
    assert 1 / 4 / (max(m, n) * math.log(min(m, n))) <= variance <= 1 / max(m, n)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
    decay=st.floats(0, 5),
    seed=SEEDS,
)
@settings(max_examples=20)
def test_no_training_can_lift_the_variance_over_the_bound(shape, decay, seed):
    # Whatever became of the weight: σ² is at least the mean of the squared singular values, at most their sum.
    torch.manual_seed(seed)
    left, values, right = torch.linalg.svd(torch.randn(*shape, dtype=torch.float64).flatten(1), full_matrices=False)
    values = torch.exp(-decay * torch.arange(len(values)))
    weight = (left * values @ right).view(shape)
    variance = mean_square(nn.Conv2d(shape[1], shape[0], shape[2:]), weight, "sn")
    m, n = shape[0], math.prod(shape[1:])
    assert 1 / (m * n) <= SLACK * variance <= SLACK**2 / max(m, n)


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_bidirectional_variance_tracks_xaviers(kernel):
    # With σ ≈ √rows + √columns, BSN's variance is 4/((1 + k)²(√c_in + √c_out)²): a constant times Xavier's
    # 2/(k²(c_in + c_out)) but for (c_in + c_out)/(√c_in + √c_out)², which is 1/2 for equal widths and 0.614 for 1:8.
    channels = [(4, 32), (8, 32), (16, 32), (24, 24), (32, 16), (32, 8), (32, 4)]  # in, out
    shares: dict[str, list[float]] = {"sn": [], "bsn": [], "LeCun": []}
    for inside, outside in channels:
        xavier = 2 / (kernel**2 * (inside + outside))
        weight = torch.randn(outside, inside, kernel, kernel, dtype=torch.float64)
        for norm in ("sn", "bsn"):
            found = mean_square(nn.Conv2d(inside, outside, kernel), weight, norm)
            shares[norm].append(found / xavier)
        shares["LeCun"].append(1 / (kernel**2 * inside) / xavier)
    assert all(1 / 2 <= share <= 1 for share in shares["bsn"])
    spread = {name: max(found) / min(found) for name, found in shares.items()}
    assert spread["bsn"] < 1.3
    assert spread["sn"] > 2
    assert spread["LeCun"] == pytest.approx(8)
