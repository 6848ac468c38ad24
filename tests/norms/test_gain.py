"""The γ forms: a learned scale on weight and bias, one a layer or one for all."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import poise
from poise.training import checkpoint
from poise.training.checkpoint import Checkpoint, Progress

SPECTRAL = ["sn", "ssn", "bsn", "bssn"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.LeakyReLU(0.1), nn.ConvTranspose2d(6, 4, 2, bias=False), nn.Flatten())


def gammas(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in net.named_parameters() if name.endswith("gamma")}


def normalized(norm: str, **options: Any) -> nn.Sequential:
    net = network()  # seeds, so that u and v start alike
    poise.normalize(net, norm, **options)
    return net


@pytest.mark.parametrize("norm", SPECTRAL)
@pytest.mark.parametrize(("gamma", "count"), [("none", 0), ("per-layer", 2), ("shared", 1)])
def test_there_are_as_many_gammas_as_asked_for_and_they_start_without_effect(norm, gamma, count):
    x = torch.randn(2, 3, 5, 5)
    plain, scaled = normalized(norm), normalized(norm, gamma=gamma)
    assert len(gammas(scaled)) == count
    assert torch.equal(scaled(x), plain(x))


@pytest.mark.parametrize("gamma", ["per-layer", "shared"])
def test_gamma_multiplies_weight_and_bias(gamma):
    net = normalized("bssn", gamma=gamma).eval()
    x = torch.randn(2, 3, 5, 5)
    first = net[0]
    before = first(x)
    with torch.no_grad():
        next(iter(gammas(first).values())).fill_(3.0)
    torch.testing.assert_close(first(x), 3 * before)


def test_a_shared_gamma_gets_the_gradient_of_every_layer():
    net, x = normalized("sn", gamma="shared").eval(), torch.randn(2, 3, 5, 5)
    net(x).sum().backward()
    (gamma,) = gammas(net).values()
    eps = 1e-3
    with torch.no_grad():
        found = []
        for value in (1 + eps, 1 - eps):
            gamma.fill_(value)
            found.append(net(x).double().sum().item())
    assert gamma.grad is not None
    assert gamma.grad.item() == pytest.approx((found[0] - found[1]) / (2 * eps), rel=1e-2)


@pytest.mark.parametrize("gamma", ["per-layer", "shared"])
def test_baking_and_copying_keep_the_outputs(gamma):
    net, x = normalized("bssn", gamma=gamma), torch.randn(2, 3, 5, 5)
    keys = set(network().state_dict())
    with torch.no_grad():
        for value in gammas(net).values():
            value.fill_(0.7)
    twin = copy.deepcopy(net)
    wanted = net(x)
    poise.denormalize(net)
    assert set(net.state_dict()) == keys
    torch.testing.assert_close(net(x), wanted)
    torch.testing.assert_close(twin(x), wanted)
    assert len(gammas(twin)) == (1 if gamma == "shared" else 2)


def test_a_checkpoint_holds_a_shared_gamma(tmp_path):
    net = normalized("bssn", gamma="shared")
    networks = {name: net.state_dict() for name in checkpoint.NETWORKS}
    path = checkpoint.save(tmp_path, Checkpoint(networks, {}, Progress(1)))
    twin = normalized("bssn", gamma="shared")
    nn.init.normal_(twin[0].get_parameter("parametrizations.weight.original"))
    twin.load_state_dict(checkpoint.load_network(path, "ema"))
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(twin(x), net(x))


def test_an_unknown_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma is 'global'; allowed: 'none', 'per-layer', 'shared'"):
        poise.normalize(network(), "sn", gamma="global")
