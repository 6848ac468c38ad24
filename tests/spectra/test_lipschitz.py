"""Lipschitz bounds of networks: above every pair of inputs, tight where they can be, and said where there are none."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import poise
from poise.models import create
from poise.spectra import LipschitzBound, lipschitz_bound, singular_values


class Net(nn.Module):
    """A network that is a function of its layers and its input."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x, y=None):
        return self.function(self, x) if y is None else self.function(self, x, y)


def fn(function):
    """A network that is a function of its input alone."""
    return Net(lambda _, x: function(x))


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def diagonal(*entries):
    layer = nn.Linear(len(entries), len(entries)).double()
    layer.weight.data = torch.diag(torch.tensor(entries, dtype=torch.float64))
    return layer


def residual_block(channels=2):
    return Net(
        lambda net, x: net.shortcut(F.avg_pool2d(x, 2)) + F.avg_pool2d(net.b(F.relu(net.a(F.relu(x)))), 2),
        a=nn.Conv2d(channels, channels, 3, padding=1),
        b=nn.Conv2d(channels, channels, 3, padding=1),
        shortcut=nn.Conv2d(channels, channels, 1),
    )


LAYERS = [  # from 2×6×6 to 2×6×6
    lambda: nn.Conv2d(2, 2, 3, padding=1),
    lambda: nn.Sequential(nn.Conv2d(2, 4, 2, stride=2), nn.PixelShuffle(2), nn.Conv2d(1, 2, 1)),
    lambda: nn.ConvTranspose2d(2, 2, 3, padding=1),
    lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
    lambda: nn.Sequential(nn.LeakyReLU(2.0), nn.BatchNorm2d(2)),
    lambda: nn.MaxPool2d(3, 1, 1),
    lambda: nn.AvgPool2d(3, 1, 1),
    lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(2), nn.GELU()),
    lambda: nn.Sequential(nn.ReplicationPad2d(1), nn.SiLU(), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, 1)),
    lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 2, 3), nn.ReLU()),
    lambda: Net(lambda net, x: x + 0.5 * net.a(torch.tanh(x)), a=nn.Conv2d(2, 2, 1)),
    lambda: Net(lambda net, x: torch.cat([x[:, :1], net.a(x)], dim=1) - 1, a=nn.Conv2d(2, 1, 3, padding=1)),
]


@given(
    st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5), st.integers(0, 2**31), st.sampled_from([1e-3, 1, 100])
)
@settings(max_examples=20)
def test_no_pair_of_inputs_is_steeper_than_the_bound(builders, seed, distance):
    torch.manual_seed(seed)
    module: Any = nn.Sequential(*(build() for build in builders)).double()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var = torch.rand(2).double() + 0.2
    bound = lipschitz_bound(module, (2, 6, 6), starts=1, steps=5)
    a = randn(64, 2, 6, 6, seed=seed)
    b = a + distance * randn(64, 2, 6, 6, seed=seed + 1)
    with torch.no_grad():
        slopes = (module.eval()(b) - module(a)).flatten(1).norm(dim=1) / (b - a).flatten(1).norm(dim=1)
    assert float(slopes.max()) <= bound.upper * (1 + 1e-9)
    assert 0 <= bound.lower <= bound.upper


TIGHT = {  # the bound is reached, and the ascent must find it
    "diagonal": (nn.Sequential(diagonal(3, 1, 1), nn.ReLU(), diagonal(2, 1, 2)), 3, 6.0),
    "leaky": (nn.Sequential(diagonal(3, 1), nn.LeakyReLU(4.0), diagonal(2, 1)), 2, 24.0),
    "residual": (Net(lambda net, x: x + net.a(x), a=diagonal(1, 2, 0.5)), 3, 3.0),
    "two blocks": (nn.Sequential(*(Net(lambda net, x: x + net.a(x), a=diagonal(1, 2)) for _ in range(2))), 2, 9.0),
    "difference": (Net(lambda net, x: x - net.a(x), a=diagonal(-2, 1)), 2, 3.0),
    "branches of one": (Net(lambda net, x: torch.cat([net.a(x), 3 * x], 1), a=diagonal(4, 1)), 2, 5.0),
    "tanh": (nn.Sequential(diagonal(2, 1), nn.Tanh()), 2, 2.0),
    "pool": (nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), (1, 4, 4), 1.0),
    "identity": (nn.Sequential(nn.Identity(), nn.Dropout(0.9), nn.Flatten()), (2, 3), 1.0),
    "constant": (fn(lambda x: 0 * x), 3, 0.0),
}


@pytest.mark.parametrize(("module", "size", "expected"), TIGHT.values(), ids=TIGHT)
def test_bounds_that_are_reached(module, size, expected):
    inputs = torch.zeros(1, *((size,) if isinstance(size, int) else size))  # where tanh is steepest
    bound = lipschitz_bound(module, size, starts=2, steps=60, inputs=inputs)
    assert bound.upper == pytest.approx(expected, rel=1e-9)
    assert expected * 0.999 <= bound.lower <= bound.upper


def test_a_relu_networks_true_constant_lies_between():
    torch.manual_seed(1)
    first, second = (nn.Linear(*size).double().requires_grad_(False) for size in ((3, 6), (6, 2)))
    bound = lipschitz_bound(nn.Sequential(first, nn.ReLU(), second), 3, steps=60)
    patterns = torch.unique(first(20 * randn(100_000, 3)) > 0, dim=0).double()  # of active units
    true = torch.linalg.matrix_norm(second.weight * patterns[:, None] @ first.weight, 2).max()
    assert 0.8 * true < bound.lower <= true * (1 + 1e-9)
    assert true <= bound.upper


def test_a_residual_block_adds_its_branches():
    torch.manual_seed(0)
    block: Any = residual_block().double()
    norm = {name: float(singular_values(getattr(block, name), 1, "conv", (6, 6), tol=1e-10)[0]) for name in "ab"}
    shortcut = float(torch.linalg.matrix_norm(block.shortcut.weight.detach().flatten(1), 2))
    assert lipschitz_bound(block, (2, 6, 6), steps=0).upper == pytest.approx(
        shortcut * 0.5 + norm["a"] * norm["b"] * 0.5
    )


@pytest.mark.parametrize("norm", ["none", "sn", "bssn", "wn"])
def test_a_discriminator_is_bounded_by_the_product_of_its_layers(norm):
    torch.manual_seed(0)
    net: Any = create("sngan-cnn", resolution=16, width=2)[1]
    poise.normalize(net, norm)
    bound = lipschitz_bound(net, (3, 16, 16), starts=1, steps=10)
    sizes = [16, 16, 8, 8, 4]
    product = float(singular_values(net.linear, 1)[0])
    for conv, size in zip(net.convs, sizes, strict=True):
        product *= float(singular_values(conv, 1, "conv", size, tol=1e-8)[0])
    assert product * (1 - 1e-6) <= bound.upper <= product * 1.01
    assert 0 < bound.lower < bound.upper
    assert [part.kind for part in bound.parts if part.name.startswith("convs")] == ["conv2d"] * 5


def test_a_generator_is_bounded_with_its_running_statistics():
    torch.manual_seed(0)
    net: Any = create("sngan-cnn", resolution=16, width=2, latent_dim=5)[0]
    before = lipschitz_bound(net, 5, steps=3)
    for norm in net.norms:
        norm.running_var.fill_(4)
    assert lipschitz_bound(net, 5, steps=3).upper == pytest.approx(before.upper / 8, rel=1e-4)


NORMALIZED = {
    "sn": lambda layer: poise.normalize(layer, "sn"),
    "bssn": lambda layer: poise.normalize(layer, "bssn", scale=2.0),
    "wn": lambda layer: poise.normalize(layer, "wn"),
    "torch": parametrizations.spectral_norm,
    "torch, with hooks": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("normalize", NORMALIZED.values(), ids=NORMALIZED)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_weights_count_as_evaluation_uses_them(normalize, padding_mode):
    torch.manual_seed(0)
    layer = normalize(nn.Conv2d(2, 3, 3, padding=1, padding_mode=padding_mode))
    bound = lipschitz_bound(layer, (2, 5, 5), starts=1)
    plain = nn.Conv2d(2, 3, 3, padding=1, padding_mode=padding_mode)
    layer.eval()(torch.zeros(1, 2, 5, 5))
    plain.weight.data = layer.weight.detach()
    assert bound.upper == pytest.approx(float(singular_values(plain, 1, "conv", 5, tol=1e-8)[0]), rel=1e-5)
    assert bound.lower > 0.9 * bound.upper


def keeping(net, x):
    net.seen = x
    return net.layer(x + torch.randn(x.shape))


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [True, False])
def test_the_network_and_the_random_state_are_left_as_they_were(around, training):
    torch.manual_seed(0)
    net: Any = nn.Sequential(
        poise.normalize(nn.Conv2d(2, 3, 3), "sn"),
        nn.BatchNorm2d(3),
        nn.Dropout(),
        parametrizations.spectral_norm(nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")),
        Net(keeping, layer=nn.ReLU(inplace=True)),
    ).train(training)
    net[1].eval()  # frozen: modes differ within a network
    net(torch.randn(4, 2, 6, 6)).sum().backward()
    seen, grads = net[4].seen, [p.grad.clone() for p in net.parameters()]
    state, modes = copy.deepcopy(net.state_dict()), [part.training for part in net.modules()]
    versions, attributes = [p._version for p in net.parameters()], [set(vars(part)) for part in net.modules()]
    random = torch.get_rng_state()
    with around():
        first = lipschitz_bound(net, (2, 6, 6), steps=3)
    assert torch.equal(torch.get_rng_state(), random)
    assert net[4].seen is seen
    assert [part.training for part in net.modules()] == modes
    assert [set(vars(part)) for part in net.modules()] == attributes
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [p._version for p in net.parameters()] == versions
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))
    torch.manual_seed(7)
    assert lipschitz_bound(net, (2, 6, 6), steps=3) == first


def test_a_failure_leaves_the_network_too():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"2 \(layer_norm\)"):
        lipschitz_bound(net, 3)
    assert all(part.training and not part._forward_hooks and not part._forward_pre_hooks for part in net.modules())
    assert net[0].weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_all_is_computed_in_float64(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    wide = copy.deepcopy(net).double()
    assert lipschitz_bound(net, 4, starts=1) == lipschitz_bound(wide, 4, starts=1)
    casting = Net(lambda net, x: net.layers(x.half().to(torch.bfloat16)).float() * torch.ones(1), layers=net)
    assert lipschitz_bound(casting, 4, starts=1).upper == lipschitz_bound(wide, 4, steps=0).upper


def test_the_lower_bound_starts_where_it_is_told_and_follows_the_seed():
    far = fn(lambda x: 5 * F.relu(x - 1000))
    assert lipschitz_bound(far, 2).lower == 0
    assert lipschitz_bound(far, 2, starts=0, inputs=torch.full((1, 2), 2000.0)).lower == pytest.approx(5)
    deep = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))
    found = [lipschitz_bound(deep, 5, starts=1, steps=4, seed=seed).lower for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert lipschitz_bound(deep, 5, steps=0).lower == lipschitz_bound(deep, 5, starts=0).lower == 0
    assert lipschitz_bound(deep, 5, starts=1, steps=40).lower >= found[0]


def test_other_arguments_are_held_fixed():
    net: Any = Net(lambda net, x, y: x * net.embed(y), embed=nn.Embedding(3, 4))
    net.embed.weight.data[1] = torch.tensor([0.5, -3, 1, 2])
    bound = lipschitz_bound(net, 4, arguments={"y": torch.tensor([1])})
    assert bound.upper == 3
    assert bound.lower > 2.9


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_networks_are_bounded_as_they_were_written(in_place):
    inner: Any = nn.Sequential(diagonal(2, 1), nn.ReLU())
    if in_place:
        inner.compile(backend="eager")
    else:
        inner = torch.compile(inner, backend="eager")
    net = nn.Sequential(inner, diagonal(3, 1))
    assert lipschitz_bound(net, 2, starts=1, steps=5).upper == pytest.approx(6)


def test_writing_in_place_is_followed():
    def inside(net, x):
        h = 2 * x
        F.relu(h, inplace=True)
        h += 3 * x
        h.mul_(2)
        return h + nn.ReLU(inplace=True)(h.clone())

    assert lipschitz_bound(Net(inside), 3, steps=0).upper == (2 + 3) * 2 * 2


class Attention(nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.mT, -1) @ x


@pytest.mark.parametrize(
    ("constants", "expected"),
    [
        ({Attention: 7}, 14.0),
        ({"1": 7}, 14.0),
        ({Attention: 5, "1": 7}, 14.0),
        ({nn.Module: 3}, 3.0),  # the network itself
        ({"1.matmul": 2, "1.matmul_1": 3}, 3 * math.hypot(2 * math.hypot(2, 2) / 2, 2)),  # scores, softmax, values
        ({torch.matmul: 0}, 0.0),
    ],
)
def test_constants_may_be_given(constants, expected):
    net = nn.Sequential(fn(lambda x: 2 * x), Attention(), nn.ReLU())
    found = lipschitz_bound(net, (4, 3), constants=constants, steps=0)
    assert found.upper == pytest.approx(expected)


def test_it_prints_as_a_table():
    net = nn.Sequential(diagonal(3, 1), nn.ReLU(), Net(lambda net, x: x + net.a(x), a=diagonal(1, 2)))
    bound = lipschitz_bound(net, 2, steps=60)
    assert isinstance(bound, LipschitzBound)
    assert str(bound).splitlines() == [
        "part   kind    constant  cumulative",
        "0      linear  3         3",
        "1      relu    1         3",
        "2.a    linear  2         6",
        "2.add  add     1         9",
        f"Lipschitz constant: at least {bound.lower:.4g}, at most 9",
    ]


def write(x):
    y = torch.zeros(1, 3, dtype=x.dtype)
    y[:, :2] = x[:, :2]
    return y


def behind(x):
    x = 1 * x
    x.view(-1).mul_(5)
    return x


REFUSED = {
    "layer norm": (
        nn.Sequential(nn.LayerNorm(3)),
        r"0 \(layer_norm\) .* max\|γ\|/√eps = 316.2.*constants=\{'0': ...\}",
    ),
    "group norm": (nn.GroupNorm(1, 3), r"group_norm .* standard deviation of its own input"),
    "instance norm": (nn.Sequential(nn.Unflatten(1, (3, 1)), nn.InstanceNorm1d(3)), r"^1 \(instance_norm\)"),
    "batch statistics": (nn.BatchNorm1d(3, track_running_stats=False), "standard deviation|more than 1 value"),
    "attention": (
        nn.Sequential(nn.Unflatten(1, (3, 1)), Attention()),
        r"1.matmul_1|1.matmul .*both depend on the input",
    ),
    "projection": (
        Net(lambda net, x: (net.a(x) * x).sum(1), a=nn.Linear(3, 3)),
        r"^mul .* multiplies .* arXiv 2006.04710",
    ),
    "quotient": (fn(lambda x: 1 / x), "slope is unbounded"),
    "quotient of two": (fn(lambda x: x / x), r"div .*slope is unbounded"),
    "power": (fn(lambda x: x**2), r"pow .*slope is unbounded"),
    "unknown": (nn.Sequential(nn.LSTM(3, 2)), r"^0 \(lstm\) .* there is no rule for it"),
    "control flow": (
        fn(lambda x: x if x.sum() > 0 else -x),
        r"^gt .* jumps as the input changes.*, put what needs it into a layer",
    ),
    "control flow in a layer": (nn.Sequential(fn(lambda x: x if x.any() else -x)), r"^0.any .*constants=\{'0': ...\}"),
    "number from the input": (fn(lambda x: x * float(x.sum())), "decides by the entries of the input"),
    "copied": (fn(lambda x: x * torch.as_tensor(x.tolist())), "decides by the entries"),
    "indices": (fn(lambda x: x.max(1)[0]), "jumps"),
    "gathered": (fn(lambda x: x[:, [0, 0]]), "may use entries twice"),
    "written": (fn(write), "writes into a tensor"),
    "written behind": (fn(behind), "written to through another view"),
    "out": (fn(lambda x: torch.add(x, x, out=torch.zeros(1, 3, dtype=x.dtype))), "writes into a tensor"),
    "bits": (fn(lambda x: x.view(torch.float16)), "as another type"),
    "1-norm": (fn(lambda x: x.norm(p=1)), "2-norm only"),
    "celu": (nn.CELU(-1.0), "alpha -1.0 its slope is unbounded"),
    "softplus": (nn.Softplus(threshold=1), "threshold 1 it jumps"),
    "NaN": (diagonal(1, 2, math.nan), "NaN or infinite"),
    "infinite": (fn(lambda x: x * math.inf), "its constant is inf"),
    "rounded": (fn(lambda x: torch.div(x, 2, rounding_mode="floor")), "jumps"),
    "batch of matrices": (fn(lambda x: x @ torch.ones(2, 3, 4)), r"shape \(2, 3, 4\)"),
    "tuple": (fn(lambda x: (x, x)), "Net returns tuple, not one tensor"),
    "no input": (fn(lambda _: torch.ones(3)), "returns Tensor, not one tensor made of its input"),
    "too small": (nn.Linear(4, 2), r"^linear .* cannot take what it is given"),
    "lazy": (nn.LazyLinear(3), "weight has no entries yet"),
    "meta": (nn.Linear(3, 3, device="meta"), "weight has no entries yet"),
}


@pytest.mark.parametrize(("module", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_bound_is_named(module, message):
    with pytest.raises(ValueError, match=message):
        lipschitz_bound(module, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_network_has_no_bound():
    with pytest.raises(ValueError, match="is scripted and cannot be looked into"):
        lipschitz_bound(torch.jit.script(nn.Sequential(nn.ReLU())), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, r"input_size is \(0,\); it is the shape of one input without the batch"),
        ({"input_size": ()}, r"input_size is \(\)"),
        ({"steps": -1}, "steps -1; neither may be below 0"),
        ({"starts": -2}, "starts is -2"),
        ({"inputs": torch.zeros(3)}, r"inputs has shape \(3,\); needed: \(n, 3\)"),
        ({"constants": {nn.Linear: -1}}, "constants has -1 for .*Linear.*; a Lipschitz constant is at least 0"),
        ({"constants": {"0": math.nan}}, "constants has nan for '0'"),
        ({"constants": {"9": 1.0}}, r"constants has \['9'\], which the network does not use; it uses 0, 1"),
        ({"constants": {nn.Conv1d: 1.0}}, r"constants has \['Conv1d'\]"),
        ({"constants": {"0": 0.1}}, "slope of 2, above the bound of 0.1: a constant that was given is too small"),
    ],
)
def test_says_what_is_wrong_with_the_question(options, message):
    network = nn.Sequential(diagonal(2, 2, 2), nn.LeakyReLU(1.0))
    with pytest.raises(ValueError, match=message):
        lipschitz_bound(network, **({"input_size": 3} | options))
