"""Weights edited, exchanged, loaded or moved are noticed, at once and in every mode."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import poise
from poise.norms import normalized_weights
from tests.norms.steps import (
    EACH_SPECTRAL,
    SPECTRAL,
    each_norm,
    gradients,
    images,
    normalized,
    update,
)

EACH_NORM = each_norm("bssn", "sn, γ shared")  # the others take as long again, and more


EDITS: dict[str, Callable[[nn.Module, str, nn.Parameter], Any]] = {
    "in place": lambda _layer, _key, weight: weight.detach().copy_(5 * weight.detach()),
    "exchanged": lambda layer, _, weight: setattr(
        layer.get_submodule("parametrizations.weight"), "original", nn.Parameter(5 * weight.detach())
    ),
    "loaded": lambda layer, key, weight: layer.load_state_dict({key: 5 * weight.detach()}, strict=False),
    "loaded, assigned": lambda layer, key, weight: layer.load_state_dict(
        {key: nn.Parameter(5 * weight.detach())}, strict=False, assign=True
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", [*SPECTRAL, "wn", "frobenius"])
def test_an_edit_is_noticed_though_a_graph_is_pending(network, norm, training, edit):
    normalized(network, (norm, {}))
    batch = images()
    pending = network.train(training)(batch)

    def lengths() -> list[float]:
        return [getattr(weight.layer, weight.parameter).norm().item() for weight in normalized_weights(network)]

    wanted = lengths()
    for weight in normalized_weights(network):
        edit(weight.layer, "parametrizations.weight.original", weight.original)
    assert lengths() == pytest.approx(wanted, rel=0.05)  # another round moves them a little, unnoticed fives a lot
    assert network(batch).shape == pending.shape
    network(batch).sum().backward()
    assert all(weight.original.grad is not None for weight in normalized_weights(network))


@EACH_SPECTRAL
@pytest.mark.parametrize("between", ["no graph", "state_dict"])
def test_a_graph_made_in_eval_is_not_used_again_in_training(network, norm, between):
    normalized(network, (norm, {}))
    update(network)
    batch = images()
    pending = network.eval()(batch)
    network.train()
    if between == "no graph":
        with torch.no_grad():
            network(batch)
    else:
        network.state_dict()
    in_training = network(batch)
    with torch.no_grad():
        torch.testing.assert_close(in_training, network(batch))
    assert not torch.allclose(pending, in_training)


@EACH_SPECTRAL
@pytest.mark.parametrize(
    "forward",
    [
        True,
        False,
    ],
    ids=["after a forward", "before any"],
)
def test_a_network_made_double_is_measured_in_double(network, by_hand, norm, forward):
    poise.normalize(network, norm)
    if forward:
        network(images().float())
    network.double()
    network(images())
    for name, wanted in by_hand(network).items():
        torch.testing.assert_close(
            network.get_submodule(name.removesuffix(".weight")).weight, wanted, rtol=1e-13, atol=0
        )


@EACH_NORM
@pytest.mark.parametrize("updated", [True, False], ids=["updated", "just normalized"])
def test_a_network_loaded_after_a_forward_gives_the_outputs_of_the_saved_one(network, norm, updated):
    twin = copy.deepcopy(network).double()
    normalized(network, norm)
    poise.normalize(twin, norm[0], **norm[1])
    update(network)
    if updated:
        update(twin)
    batch = images()
    twin(batch)
    twin.load_state_dict(network.state_dict())
    for _ in range(2):
        torch.testing.assert_close(twin(batch), network(batch), rtol=1e-12, atol=1e-12)
        network(batch).square().sum().backward()
        twin(batch).square().sum().backward()
        torch.testing.assert_close(gradients(twin), gradients(network), rtol=1e-10, atol=1e-12)
        torch.optim.SGD(network.parameters(), 0.0).step()
