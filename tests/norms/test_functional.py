"""Normalized networks under what transforms them: ``torch.func``, forward mode, checkpointing, gradient hooks."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

import poise
from poise.norms import normalized_weights

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {}) for name in ("sn", "ssn", "bsn", "bssn", "wn", "wn-strict", "frobenius", "clip", "sigma-clamp")
    },
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
    "γ shared": ("sn", {"gamma": "shared"}),
    "operator": ("sn", {"operator": "conv"}),
}
QUICK = ("bssn", "wn", "γ shared")  # the others take as long again, and more
EACH_NORM = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, norm in NORMS.items()],
)


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def update(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in normalized_weights(network):
            weight.original.add_(torch.randn(weight.original.shape, generator=generator) / 5)


def normalized(network: nn.Module, norm: tuple[str, dict[str, Any]]) -> nn.Module:
    poise.normalize(network.double(), norm[0], **norm[1])
    network(images())
    update(network)
    network(images())
    return network


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@EACH_NORM
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients_of_each_sample_at_once_are_those_one_by_one(network, norm, training):
    normalized(network, norm).train(training)
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(network, values, (image[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters(network), images())
    for index, image in enumerate(images()):
        network.zero_grad()
        network(image[None]).square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(found[name][index], parameter.grad)
    torch.testing.assert_close(dict(network.named_buffers()), before, rtol=0, atol=0)


@EACH_NORM
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_forward_mode_and_backward_mode_agree(network, norm, training):
    normalized(network, norm).train(training)
    values = parameters(network)
    tangents = {name: torch.randn_like(value) for name, value in values.items()}
    network(images()).sum().backward()
    wanted = sum((tangents[name] * p.grad).sum() for name, p in network.named_parameters() if p.grad is not None)

    def total(given: dict[str, Tensor]) -> Tensor:
        return functional_call(network, given, (images(),)).sum()

    by_func = jvp(total, (values,), (tangents,))[1]
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(value, tangents[name]) for name, value in values.items()}
        by_level = forward_ad.unpack_dual(total(duals)).tangent
    torch.testing.assert_close(by_func, wanted)
    torch.testing.assert_close(by_level, wanted)


@EACH_NORM
def test_a_call_with_other_weights_leaves_the_network_as_it_was(network, norm):
    normalized(network, norm)
    wanted = network(images()).detach()
    others = {name: value * 3 for name, value in parameters(network).items()}
    first = functional_call(network.eval(), others, (images(),))
    torch.testing.assert_close(functional_call(network, others, (images(),)), first)
    torch.testing.assert_close(network.train()(images()), wanted)
    torch.testing.assert_close(network.eval()(images()), wanted)


@EACH_NORM
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("due", [True, False], ids=["after an update", "no update"])
def test_checkpointing_changes_nothing_but_memory(network, norm, reentrant, due):
    normalized(network, norm)
    twin = copy.deepcopy(network)
    if due:
        update(network)
        update(twin)

    def saving(x: Tensor) -> Any:
        head = checkpoint(twin[:3], x, use_reentrant=reentrant)
        return checkpoint(twin[3:], head, use_reentrant=reentrant)

    found: list[dict[str, Tensor]] = []
    calls: list[tuple[nn.Module, Callable[[Tensor], Any]]] = [(network, network), (twin, saving)]
    for each, call in calls:
        real, fake = images().requires_grad_(), images(3).requires_grad_()
        (call(real).square().sum() + call(fake).sum()).backward()
        assert real.grad is not None
        gradients = {name: p.grad for name, p in each.named_parameters() if p.grad is not None}
        found.append({**gradients, "real": real.grad, **dict(each.named_buffers())})
    torch.testing.assert_close(found[1], found[0])
