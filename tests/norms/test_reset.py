"""``reset_parameters`` of normalized layers: as that of the plain ones, normalized after it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in poise.norms.NORMS if name != "none"},
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
    "γ shared": ("sn", {"gamma": "shared"}),
    "operator": ("sn", {"operator": "conv"}),
    "operator, known size": ("ssn", {"operator": "conv", "input_size": 4}),
    "householder": ("orthogonal", {"orthogonal_map": "householder"}),
    "dynamic": ("spectral-compensation", {"form": "dynamic"}),
}
EACH_NORM = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def images() -> Tensor:
    return torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def train(network: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(images()).square().sum() + poise.norms.weight_penalty(network)).backward()
        optimizer.step()


def reset(network: nn.Module) -> None:
    parts: list[Any] = [part for part in network.modules() if hasattr(part, "reset_parameters")]
    for number, part in enumerate(parts):
        torch.manual_seed(number)  # norms draw vectors to start from
        part.reset_parameters()


@EACH_NORM
def test_a_normalized_layer_is_reset_to_what_a_plain_one_would_be(network, norm):
    plain = copy.deepcopy(network)
    reset(plain)
    wanted = poise.normalize(plain, norm[0], **norm[1])
    poise.normalize(network, norm[0], **norm[1])
    train(network, 3)
    reset(network)
    for name, parameter in wanted.named_parameters():
        torch.testing.assert_close(network.get_parameter(name).detach(), parameter.detach())
    for each in (network, wanted):
        each(images())  # an operator norm begins at its first forward
        for parameter in each.parameters():
            torch.autograd.graph.increment_version(parameter)  # further rounds, from vectors that are near
            each(images())
    torch.testing.assert_close(network.eval()(images()), wanted.eval()(images()), rtol=0.02, atol=0.01)
    assert set(network.state_dict()) == set(wanted.state_dict())
    train(network.train(), 2)


@pytest.mark.parametrize("norm", [norm for norm in NORMS.values() if norm[0] != "orthogonal"])
def test_a_network_from_meta_may_be_initialized_layer_by_layer(network, norm):
    poise.normalize(network.to("meta"), norm[0], **norm[1])
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    reset(network)
    assert network(images()).isfinite().all()
    train(network, 3)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_of_a_layer_with_others_parametrizations_ours_are_reset():
    layer = torch.nn.utils.parametrizations.weight_norm(poise.normalize(nn.Linear(4, 4), "sn"), "bias", dim=0)
    kept = layer.parametrizations.weight.original.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.parametrizations.weight.original, kept)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: layer], ids=["copy", "itself"])
def test_only_the_layer_that_is_reset_changes(copied):
    source = poise.normalize(nn.Conv2d(3, 4, 3), "sn")
    before = copy.deepcopy(dict(source.state_dict()))
    layer = copied(source)
    layer.reset_parameters()
    assert not torch.equal(layer.parametrizations.weight.original, before["parametrizations.weight.original"])
    if layer is not source:
        torch.testing.assert_close(dict(source.state_dict()), before, rtol=0, atol=0)
    values = torch.linalg.svdvals(layer.parametrizations.weight.original.detach().flatten(1))
    torch.testing.assert_close(poise.norms.sigmas(layer)[""], values[0], rtol=0.05, atol=0)
