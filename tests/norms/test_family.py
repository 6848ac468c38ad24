"""Putting a norm on a module, reading it off and baking it in."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from poise.norms import NORMS, denormalize, normalize, normalized_weights, out_dim, sigmas

SPECTRAL = ["sn", "ssn", "bsn", "bssn"]
EACH_NORM = pytest.mark.parametrize("norm", SPECTRAL)
NORMALIZED = ["features.0", "features.2", "features.4", "linear"]


class Network(nn.Module):
    """A small discriminator with layers of several kinds, some nested, and one that no norm touches."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.Tanh(),
            nn.Conv2d(4, 6, 3, groups=2, bias=False),
            nn.Tanh(),
            nn.ConvTranspose2d(6, 2, 2),
        )
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2 * 3 * 3, 1)

    def forward(self, x):
        return self.linear(self.norm(self.features(x)).flatten(1)).squeeze(1)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def images(n=4):
    return torch.randn(n, 3, 6, 6)


def train(network, optimizer, steps=5):
    for _ in range(steps):
        optimizer.zero_grad()
        network(images()).square().mean().backward()
        optimizer.step()


def normalized(norm):
    network = Network()
    normalize(network, norm)
    return network


def weights(network):
    return [network.get_submodule(name).parametrizations.weight.original for name in NORMALIZED]


# normalize


@EACH_NORM
def test_normalize_works_in_place_on_every_layer_it_knows(norm):
    network = Network()
    before = dict(network.named_parameters())
    assert normalize(network, norm) is network
    assert [weight.name for weight in normalized_weights(network)] == NORMALIZED
    for name, weight in zip(NORMALIZED, weights(network), strict=True):
        assert weight is before[f"{name}.weight"]
    assert {id(weight) for weight in network.parameters()} == {id(weight) for weight in before.values()}


def test_none_leaves_a_module_as_it_is():
    network = Network().eval()
    before = copy.deepcopy(network)
    assert normalize(network, "none") is network
    assert list(network.state_dict()) == list(before.state_dict())
    assert not any(parametrize.is_parametrized(layer) for layer in network.modules())
    inputs = images()
    assert torch.equal(network(inputs), before(inputs))
    assert normalize(nn.ReLU(), "none") is not None


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(2, 3), 0),
        (nn.Conv1d(2, 3, 1), 0),
        (nn.Conv2d(2, 3, 1), 0),
        (nn.Conv3d(2, 3, 1), 0),
        (nn.ConvTranspose1d(2, 3, 1), 1),
        (nn.ConvTranspose2d(2, 3, 1), 1),
        (nn.ConvTranspose3d(2, 3, 1), 1),
    ],
)
def test_out_dim_counts_the_output_units(layer, expected):
    assert out_dim(layer) == expected
    assert layer.weight.shape[out_dim(layer)] == len(layer.bias)


def test_a_single_layer_can_be_normalized():
    layer = normalize(nn.Linear(3, 2), "sn")
    assert [weight.name for weight in normalized_weights(layer)] == [""]


def test_a_layer_used_twice_is_normalized_once():
    shared = nn.Linear(3, 3)
    network = normalize(nn.Sequential(shared, nn.ReLU(), shared), "sn")
    assert len(list(normalized_weights(network))) == 1


@EACH_NORM
def test_a_module_in_eval_stays_in_eval(norm):
    network = normalize(Network().eval(), norm)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for weight in weights(network):
            weight.add_(1)
    network(images())
    vectors = [name for name in before if ".u_" in name or ".v_" in name]
    assert len(vectors) == (14 if norm[0] == "b" else 8)
    for name in vectors:
        assert torch.equal(network.state_dict()[name], before[name])


def test_a_frozen_weight_stays_frozen():
    network = Network().requires_grad_(False)
    normalize(network, "bssn")
    assert not any(weight.requires_grad for weight in network.parameters())
    assert not network(images()).requires_grad


@pytest.mark.parametrize(
    ("norm", "options", "told"),
    [
        ("bsnn", {}, r"^unknown norm 'bsnn'; did you mean '(bsn|bssn)'\?$"),
        (
            "layer",
            {},
            "^unknown norm 'layer'; known: none, sn, ssn, bsn, bssn, wn, wn-strict, frobenius, clip, sigma-clamp, "
            "sigma-reg, spectral-compensation, orthogonal$",
        ),
        ("bssn", {"scal": 1.2}, r"^norm 'bssn' has no option 'scal'; did you mean 'scale'\?$"),
        ("sn", {"scale": 1.2}, r"^norm 'sn' has no option 'scale'; known: gamma, operator, input_size$"),
        ("none", {"scale": 1.2}, r"^norm 'none' has no option 'scale'"),
        ("ssn", {"scale": 0}, "^scale is 0; it must be above 0"),
        ("bssn", {"scale": -1.0}, "^scale is -1.0; it must be above 0"),
    ],
)
def test_a_refused_norm_leaves_the_module_untouched(norm, options, told):
    network = Network()
    before = list(network.state_dict())
    with pytest.raises(ValueError, match=told):
        normalize(network, norm, **options)
    assert list(network.state_dict()) == before


def test_a_module_without_layers_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^Sequential has no layer to normalize; looked for Linear, Bilinear, .*ConvTranspose3d$",
    ):
        normalize(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), "sn")


def test_a_second_normalization_is_refused_before_anything_is_done():
    network = Network()
    normalize(network.linear, "sn")
    before = list(network.state_dict())
    with pytest.raises(ValueError, match=r"^layer 'linear' is normalized already; poise\.denormalize it first$"):
        normalize(network, "bssn")
    assert list(network.state_dict()) == before
    normalize(denormalize(network), "bssn")
    assert [weight.name for weight in normalized_weights(network)] == NORMALIZED


@EACH_NORM
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_the_optimizer_may_be_made_before_or_after(norm, kind):
    early, late = Network(), Network()
    late.load_state_dict(early.state_dict())
    start = copy.deepcopy(early.state_dict())
    early_optimizer = kind(early.parameters(), lr=0.01)
    for network in (early, late):
        torch.manual_seed(1)  # the vectors start at random
        normalize(network, norm)
    for network, optimizer in ((early, early_optimizer), (late, kind(late.parameters(), lr=0.01))):
        torch.manual_seed(2)
        train(network, optimizer)
    for ours, theirs, name in zip(weights(early), weights(late), NORMALIZED, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert (ours - start[f"{name}.weight"]).norm() > 1e-3


# sigmas


@EACH_NORM
def test_sigmas_are_the_singular_values_of_the_raw_weights(norm):
    network = normalized(norm)
    with torch.no_grad():
        for _ in range(150):
            for weight in weights(network):
                weight.mul_(1)
            network(images(1))
    found = sigmas(network)
    assert list(found) == NORMALIZED
    for (name, sigma), weight in zip(found.items(), weights(network), strict=True):
        rows = 1 if name == "features.4" else 0
        both = norm[0] == "b" and weight.ndim > 2
        matrices = [
            np.moveaxis(weight.detach().double().numpy(), dim, 0) for dim in ([rows, 1 - rows] if both else [rows])
        ]
        expected = np.mean([np.linalg.norm(matrix.reshape(len(matrix), -1), 2) for matrix in matrices])
        assert sigma.item() == pytest.approx(expected, rel=1e-5)
        assert sigma.shape == ()
        assert not sigma.requires_grad


def test_reading_sigmas_is_not_a_forward():
    network = normalized("bssn")
    train(network, torch.optim.SGD(network.parameters(), lr=0.1))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sigmas(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_plain_module_has_no_sigmas():
    assert sigmas(Network()) == {}


# denormalize


@EACH_NORM
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_denormalize_bakes_the_same_outputs_into_plain_weights(norm, training):
    network = Network()
    keys, types = sorted(network.state_dict()), [type(layer) for layer in network.modules()]
    normalize(network, norm)
    train(network, torch.optim.SGD(network.parameters(), lr=0.1))
    network.norm.momentum = 0.0  # the statistics stand still, so that two forwards can be compared
    network.train(training)
    inputs = images()
    before = network(inputs).detach()
    assert denormalize(network) is network
    torch.testing.assert_close(network(inputs), before, rtol=1e-6, atol=1e-6)
    assert sorted(network.state_dict()) == keys
    assert [type(layer) for layer in network.modules()] == types
    assert all(layer.training == training for layer in network.modules())
    for name in NORMALIZED:
        layer = network.get_submodule(name)
        assert type(layer.weight) is nn.Parameter
        assert layer.weight.requires_grad
        assert layer.weight.is_leaf
    Network().load_state_dict(network.state_dict())


@EACH_NORM
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_denormalized_outputs_are_the_same_in_the_other_mode_too(norm, training):
    network = normalized(norm)
    train(network, torch.optim.SGD(network.parameters(), lr=0.1))
    network.norm.momentum = 0.0
    inputs = images()
    network(inputs)
    before = network.train(not training)(inputs).detach()
    denormalize(network.train(training))
    torch.testing.assert_close(network.train(not training)(inputs), before, rtol=1e-6, atol=1e-6)


def test_denormalize_is_no_forward():
    network = normalized("bssn")
    train(network, torch.optim.SGD(network.parameters(), lr=0.5))  # the last update waits for its round
    inputs = images()
    before = network.eval()(inputs).detach()
    denormalize(network.train())
    torch.testing.assert_close(network.eval()(inputs), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("baked_one", ["copy", "original"])
def test_baking_a_network_leaves_its_copy_normalized(baked_one):
    # A snapshot for export in mid-training: PyTorch lets both share the class that makes weight a property.
    network = normalized("bssn")
    pair = {"original": network, "copy": copy.deepcopy(network)}
    inputs = images()
    for each in pair.values():
        each.eval()
    before = network(inputs)
    denormalize(pair.pop(baked_one))
    (other,) = pair.values()
    assert torch.equal(other(inputs), before)
    other.train()
    train(other, torch.optim.SGD(other.parameters(), lr=0.1))
    assert [weight.name for weight in normalized_weights(other)] == NORMALIZED


def test_an_optimizer_made_before_goes_on_after_denormalize():
    network = normalized("bssn")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train(network, optimizer)
    denormalize(network)
    baked = network.linear.weight.detach().clone()
    train(network, optimizer)
    assert not torch.equal(network.linear.weight, baked)


def test_denormalize_leaves_other_parametrizations_alone():
    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "bias", nn.Softplus())
    normalize(layer, "sn")
    inputs = torch.randn(4, 3)
    before = layer(inputs)
    denormalize(layer)
    torch.testing.assert_close(layer(inputs), before)
    assert not parametrize.is_parametrized(layer, "weight")
    assert parametrize.is_parametrized(layer, "bias")


def test_denormalize_leaves_a_plain_module_alone():
    network = Network()
    before = network.state_dict()
    assert list(denormalize(network).state_dict()) == list(before)


def test_denormalize_keeps_frozen_weights_frozen():
    network = normalize(Network(), "sn").requires_grad_(False)
    assert not any(weight.requires_grad for weight in denormalize(network).parameters())


def test_every_norm_has_a_summary_and_none_builds_nothing():
    others = ["wn", "wn-strict", "frobenius", "clip", "sigma-clamp", "sigma-reg", "spectral-compensation", "orthogonal"]
    assert list(NORMS) == ["none", *SPECTRAL, *others]
    assert all(NORMS.summary(name) for name in NORMS)
    assert NORMS.build("none", nn.Linear(2, 2)) is None
