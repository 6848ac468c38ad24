"""Graphs and updates: what several forwards, losses and backwards of a step see, frozen, shared or pending."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from poise.norms import normalized_weights
from tests.norms.steps import (
    EACH_SPECTRAL,
    each_norm,
    gradients,
    images,
    normalized,
    originals,
    update,
)

pytestmark = pytest.mark.usefixtures("arithmetic")
EACH_NORM = each_norm("sn", "bssn", "wn", "sn, γ shared")  # the others take as long again, and more


def vectors(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_buffers())


@EACH_NORM
def test_forwards_of_one_step_agree_and_each_backward_stands_alone(network, norm):
    normalized(network, norm)
    update(network)
    real, fake = images(), images(3)
    first, again = network(real), network(real)
    assert torch.equal(first, again)
    (first.square().sum() + network(fake).sum()).backward()
    wanted = gradients(network)
    for order in (1, -1):
        losses = [network(real).square().sum(), network(fake).sum()][::order]
        for loss in losses:
            loss.backward()  # without retain_graph: torch's own norms allow it, for each forward has its own weight
        torch.testing.assert_close(gradients(network), wanted)


@EACH_NORM
def test_ten_forwards_before_one_backward_and_parts_of_a_batch_are_the_whole(network, norm):
    normalized(network, norm)
    update(network)
    batch = images(10)
    network(batch).square().mean().backward()
    wanted = gradients(network)
    sum(network(part[None]).square().mean() / 10 for part in batch).backward()
    torch.testing.assert_close(gradients(network), wanted)
    for part in batch.split(5):
        (network(part).square().mean() / 2).backward()
    torch.testing.assert_close(gradients(network), wanted)


@EACH_NORM
def test_no_gradient_reaches_a_frozen_network_though_a_graph_of_before_is_pending(network, norm):
    normalized(network, norm)
    update(network)
    fake = images().requires_grad_()
    pending = network(images()).sum()
    before = {name: tensor.clone() for name, tensor in vectors(network).items()}
    network.requires_grad_(False)
    output = network(fake)
    output.sum().backward()
    assert gradients(network) == {}
    assert fake.grad is not None
    assert fake.grad.any()
    network.requires_grad_(True)
    torch.testing.assert_close(network(fake), output)
    pending.backward()
    assert all(weight.grad is not None for weight in originals(network))
    torch.testing.assert_close(vectors(network), before, rtol=0, atol=0)


@EACH_SPECTRAL
@pytest.mark.parametrize("order", ["together", "penalty first", "loss first"])
def test_r1_and_the_loss_share_a_network_as_a_plain_one(network, by_hand, norm, order):
    plain = copy.deepcopy(network).double()
    normalized(network, (norm, {}))
    update(network)
    real, fake = images().requires_grad_(), images()

    def losses(discriminator: Callable[[Tensor], Tensor]) -> list[Tensor]:
        logits = discriminator(real)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = gradient.square().sum((1, 2, 3)).mean()
        return [penalty, (discriminator(fake) - logits).sigmoid().sum()]

    found = losses(network)
    if order == "together":
        (found[0] + found[1]).backward()
    else:
        found[order == "loss first"].backward(retain_graph=True)
        found[order == "penalty first"].backward()
    leaves = {weight.name: weight.original.detach().clone().requires_grad_() for weight in normalized_weights(network)}
    effective = by_hand(network, leaves)
    biases = {name: p.detach() for name, p in network.named_parameters() if name.endswith("bias")}
    total: Any = sum(losses(lambda x: functional_call(plain, {**biases, **effective}, (x,))))
    total.backward()
    for weight in normalized_weights(network):
        torch.testing.assert_close(weight.original.grad, leaves[weight.name].grad, rtol=1e-8, atol=1e-10)


@EACH_SPECTRAL
def test_a_penalty_on_the_gradient_of_the_weights_is_that_of_a_plain_network(network, by_hand, norm):
    plain = copy.deepcopy(network).double()
    normalized(network, (norm, {}))
    update(network)
    batch = images()
    logits = network(batch)

    def penalty(output: Tensor, weights: list[Tensor]) -> Tensor:
        return torch.stack(
            [g.square().sum() for g in torch.autograd.grad(output.square().sum(), weights, create_graph=True)]
        ).sum()

    penalty(logits, originals(network)).backward()
    leaves = {weight.name: weight.original.detach().clone().requires_grad_() for weight in normalized_weights(network)}
    biases = {name: p.detach() for name, p in network.named_parameters() if name.endswith("bias")}
    penalty(functional_call(plain, {**biases, **by_hand(network, leaves)}, (batch,)), list(leaves.values())).backward()
    for weight in normalized_weights(network):
        torch.testing.assert_close(weight.original.grad, leaves[weight.name].grad, rtol=1e-7, atol=1e-8)


@EACH_NORM
def test_a_weight_changed_between_forward_and_backward_is_an_error(network, norm):
    normalized(network, norm)
    loss = network(images()).square().sum()
    update(network)
    with pytest.raises(RuntimeError, match=r"modified (in place|by an inplace operation)"):
        loss.backward()
    network(images()).sum().backward()


@EACH_SPECTRAL
@pytest.mark.parametrize("first", ["graph", "no graph", "state_dict", "frozen", "last layer"])
def test_an_update_is_followed_by_one_round_whatever_comes_first(network, by_hand, norm, first):
    normalized(network, (norm, {}))
    for _ in range(3):
        before = {name: tensor.clone() for name, tensor in vectors(network).items()}
        kept = vectors(network)
        update(network)
        if first == "no graph":
            with torch.no_grad():
                network(images())
        elif first == "state_dict":
            network.state_dict()
        elif first == "frozen":
            network.requires_grad_(False)(images())
            network.requires_grad_(True)
        elif first == "last layer":
            _ = next(reversed(network)).weight
        for _ in range(3):
            output = network(images())
        expected = copy.deepcopy(network).train()
        for found, twin in zip(normalized_weights(network), normalized_weights(expected), strict=True):
            prefix = f"{found.name}.parametrizations.weight.0."
            for direction in ("out", "in"):
                if prefix + f"u_{direction}" not in before:
                    continue
                dim = int(direction == "in") ^ int(isinstance(found.layer, nn.ConvTranspose2d))
                matrix = twin.original.detach().movedim(dim, 0).flatten(1)
                v = nn.functional.normalize(matrix.mT @ before[prefix + f"u_{direction}"], dim=0)
                u = nn.functional.normalize(matrix @ v, dim=0)
                for name, wanted in (("u", u), ("v", v)):
                    torch.testing.assert_close(vectors(network)[f"{prefix}{name}_{direction}"], wanted)
        for name, tensor in kept.items():
            assert torch.equal(tensor, before[name])  # what earlier graphs may hold is never written to
        assert output.isfinite().all()


@EACH_NORM
def test_a_forward_with_cached_weights_is_any_other(network, norm):
    normalized(network, norm)
    update(network)
    real, fake = images(), images()
    (network(real).square().sum() + network(fake).sum()).backward()
    wanted = gradients(network)
    update(network)
    twin = copy.deepcopy(network)
    with parametrize.cached():
        (network(real).square().sum() + network(fake).sum()).backward()
    found = gradients(network)
    (twin(real).square().sum() + twin(fake).sum()).backward()
    torch.testing.assert_close(found, gradients(twin))
    assert found.keys() == wanted.keys()


@EACH_SPECTRAL
def test_writing_to_the_effective_weight_changes_no_other_forward(network, norm):
    normalized(network, (norm, {}))
    batch = images()
    pending = network(batch)
    nn.init.zeros_(network[0].weight)
    assert torch.equal(network(batch), pending)


@EACH_NORM
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_forwards_without_graph_agree_and_leave_training_as_it_was(network, norm, mode):
    normalized(network, norm)
    batch = images()
    wanted = network(batch).detach()
    with mode():
        for training in (True, False):
            torch.testing.assert_close(network.train(training)(batch), wanted, rtol=1e-12, atol=1e-12)
    output = network.train()(batch)
    output.sum().backward()
    torch.testing.assert_close(output, wanted, rtol=1e-12, atol=1e-12)
    assert not any(tensor.is_inference() for tensor in vectors(network).values())
