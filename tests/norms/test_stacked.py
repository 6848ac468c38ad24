"""Small weights normalized together give what each gives alone, whatever is done to one of them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import normalized_weights, stack

pytestmark = pytest.mark.usefixtures("arithmetic")
SPECTRAL = ["sn", "ssn", "bsn", "bssn"]
EACH_NORM = pytest.mark.parametrize(
    "norm", [pytest.param(norm, marks=() if norm == "bssn" else pytest.mark.slow) for norm in SPECTRAL]
)


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def pair(network: nn.Sequential, norm: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The same network twice: normalized in one call, and layer by layer, in as many."""
    together, apart = network.double(), copy.deepcopy(network).double()
    poise.normalize(together, norm)
    for weight in normalized_weights(together):
        poise.normalize(apart, norm, layers=weight.name)
    apart.load_state_dict(together.state_dict())
    return together, apart


def first_two(network: nn.Sequential) -> list[Any]:
    return [weight.layer for weight in normalized_weights(network)][:2]


def original(layer: nn.Module) -> nn.Parameter:
    return layer.get_parameter("parametrizations.weight.original")


def copied_alone(network: nn.Sequential) -> None:
    index = next(i for i, part in enumerate(network) if part is first_two(network)[1])
    network[index] = copy.deepcopy(network[index])


def copied_block(network: nn.Sequential) -> None:
    block = copy.deepcopy(network[:3])
    for index, part in enumerate(block):
        network[index] = part


def exchanged_alone(network: nn.Sequential) -> None:
    layer = first_two(network)[1]
    layer.parametrizations.weight.original = nn.Parameter(original(layer).detach().flip(0))


def updated_alone(network: nn.Sequential) -> None:
    with torch.no_grad():
        original(first_two(network)[1]).mul_(torch.linspace(1, 3, 3).view(-1, 1, 1, 1)[: 1 + 2 * (len(network) > 9)])


def loaded_alone(network: nn.Sequential) -> None:
    second = first_two(network)[1]
    state = {name: tensor.flip(0) for name, tensor in second.state_dict().items()}
    second.load_state_dict(state)


def in_float32_alone(network: nn.Sequential) -> None:
    layer = first_two(network)[1].float()
    layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    layer.register_forward_hook(lambda _, _inputs, output: output.double())


def read_without_graph(network: nn.Sequential) -> None:
    with torch.no_grad():
        network(images())


def read_one_alone(network: nn.Sequential) -> None:
    _ = first_two(network)[1].weight


HAPPENINGS: dict[str, Callable[[nn.Sequential], Any]] = {
    "nothing": lambda _: None,
    "frozen": lambda network: first_two(network)[1].requires_grad_(False),
    "all but one frozen": lambda network: network.requires_grad_(False)[0].requires_grad_(True),
    "eval": lambda network: first_two(network)[1].eval(),
    "channels last": lambda network: first_two(network)[1].to(memory_format=torch.channels_last),
    "denormalized": lambda network: poise.denormalize(first_two(network)[1]),
    "state_dict": lambda network: network.state_dict(),
    "copied alone": copied_alone,
    "copied block": copied_block,
    "exchanged alone": exchanged_alone,
    "updated alone": updated_alone,
    "loaded alone": loaded_alone,
    "in float32 alone": in_float32_alone,
    "read without graph": read_without_graph,
    "read one alone": read_one_alone,
}


def step(network: nn.Sequential, happening: Callable[[nn.Sequential], Any], lr: float) -> list[Tensor]:
    """Two losses and a gradient penalty; what it computed."""
    network.zero_grad()
    pending = network(images(2)).sum()
    happening(network)
    real = images().requires_grad_()
    logits = network(real)
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    weights = [weight.original for weight in normalized_weights(network) if weight.original.requires_grad]
    of_weights = torch.autograd.grad(logits.square().sum(), weights, create_graph=True)
    penalty = gradient.square().sum() + sum(g.square().sum() for g in of_weights) / 100
    loss = logits.sigmoid().sum() + network(images(3)).square().sum() + penalty
    loss.backward()
    if happening in (HAPPENINGS["frozen"], HAPPENINGS["nothing"]):
        pending.backward()
    found = [logits, loss, *(p.grad for p in network.parameters() if p.grad is not None)]
    torch.optim.SGD(network.parameters(), lr).step()
    return [tensor.detach().clone() for tensor in found]


@pytest.fixture(params=["one by one", "in a batch"])
def products(request, monkeypatch):
    """Those of a CPU, and, on it, those of other devices."""
    if request.param == "in a batch":
        monkeypatch.setattr(stack, "ONE_BY_ONE", ())


@EACH_NORM
@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("happening", HAPPENINGS.values(), ids=list(HAPPENINGS))
def test_together_and_apart_are_the_same(network, norm, happening):
    together, apart = pair(network, norm)
    for act in (HAPPENINGS["nothing"], happening, HAPPENINGS["nothing"]):
        found, wanted = [step(each, act, lr=1e-3) for each in (together, apart)]
        rtol = 1e-5 if happening is in_float32_alone else 1e-8
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol)
    torch.testing.assert_close(together.state_dict(), apart.state_dict(), rtol=1e-5, atol=1e-5)
    for each in (together, apart):
        each.requires_grad_(True).train()


@EACH_NORM
@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-13, 1e-9, 1e9, 1e30, float("nan")])
def test_one_weight_out_of_all_proportion_is_treated_as_if_alone(network, norm, scale):
    together, apart = pair(network, norm)
    for each in (together, apart):
        with torch.no_grad():
            original(first_two(each)[1]).mul_(scale)
    for _ in range(2):
        found, wanted = [[weight.layer.weight for weight in normalized_weights(each)] for each in (together, apart)]
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12, equal_nan=True)
        for each in (together, apart):
            with torch.no_grad():
                original(first_two(each)[0]).mul_(2)
    torch.testing.assert_close(together.state_dict(), apart.state_dict(), rtol=1e-8, atol=1e-12, equal_nan=True)


@EACH_NORM
def test_layers_left_out_of_a_forward_get_no_gradient(network, norm):
    together, apart = pair(network, norm)
    part = 3
    for each in (together, apart):
        each[:part](images()).square().sum().backward()
    for name, parameter in together.named_parameters():
        wanted = apart.get_parameter(name).grad
        assert (parameter.grad is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(parameter.grad, wanted)


def test_hooks_and_optimizers_of_unused_layers_are_not_called(equal_layers):
    network: Any = poise.normalize(equal_layers(), "bssn")
    called = []
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: called.append(name))
        parameter.register_hook(lambda _, name=name: called.append(name))
    network[:3](images().float()).sum().backward()
    assert {name.split(".")[0] for name in called} == {"0", "2"}
    assert len(called) == 2 * len(set(called))


@EACH_NORM
def test_only_part_of_the_gradients_may_be_asked_for(network, norm):
    together, apart = pair(network, norm)
    found = [
        torch.autograd.grad(each(images()).square().sum(), [original(first_two(each)[1])]) for each in (together, apart)
    ]
    torch.testing.assert_close(*found)


@EACH_NORM
def test_copies_live_on_when_the_original_is_gone(equal_layers, norm):
    whole: Any = poise.normalize(equal_layers().double(), norm)
    block = copy.deepcopy(whole[:5])
    wanted = whole[:5](images()).detach()
    del whole
    for _ in range(2):
        torch.testing.assert_close(block(images()), wanted)
        block(images()).sum().backward()
    with torch.no_grad():
        original(block[0]).mul_(2)
    assert block(images()).isfinite().all()


@EACH_NORM
def test_a_network_and_its_copy_do_not_touch_each_other(network, norm):
    poise.normalize(network, norm)
    network(images().float())
    twin = copy.deepcopy(network)
    before = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(3):
        network(images().float()).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(dict(twin.state_dict()), before, rtol=0, atol=0)
    after = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    twin(images().float()).sum().backward()
    torch.testing.assert_close(dict(network.state_dict()), after, rtol=0, atol=0)


@EACH_NORM
def test_vectors_written_to_in_place_are_the_ones_used(network, by_hand, norm):
    # What a broadcast of buffers does, or an exponential moving average of them.
    poise.normalize(network.double(), norm)
    network(images())
    with torch.no_grad():
        for buffer in network.buffers():
            noise = torch.randn_like(buffer) / len(buffer) ** 0.5  # not so much that uᵀWv is no longer above zero
            buffer.copy_(nn.functional.normalize(buffer + noise / 3, dim=0))
    network(images())
    for name, wanted in by_hand(network).items():
        torch.testing.assert_close(network.get_submodule(name.removesuffix(".weight")).weight, wanted)


@EACH_NORM
def test_weights_that_are_computed_give_each_loss_the_gradient_of_its_own_graph(network, norm):
    """As of a network that makes another one's weights: what the last loss went through is gone by the next."""
    found = []
    for each in pair(network, norm):
        each.load_state_dict(each.state_dict())  # no round is due for the first weights of either
        sizes = {name: torch.ones((), dtype=torch.float64, requires_grad=True) for name, _ in each.named_parameters()}
        for part in (len(each), 3, len(each)):
            computed = {name: parameter * sizes[name] for name, parameter in each.named_parameters()}
            names = {name for name in computed if int(name.split(".")[0]) < part}
            kept = {name: computed[name] if name in names else each.get_parameter(name) for name in computed}
            output = images()
            for index in range(part):
                own = {name.partition(".")[2]: kept[name] for name in kept if name.startswith(f"{index}.")}
                output = torch.func.functional_call(each[index], own, output)
            output.square().sum().backward()
        found.append({name: size.grad for name, size in sizes.items()})
    torch.testing.assert_close(*found)


def test_a_loss_of_one_layer_and_then_of_another_both_have_their_gradients(equal_layers):
    together, apart = pair(equal_layers(), "bssn")
    for each in (together, apart):
        first, second = first_two(each)
        weights = first.weight, second.weight
        weights[0].square().sum().backward()
        weights[1].sum().backward()
        with torch.no_grad():
            original(first).mul_(2)
        second.weight.pow(3).sum().backward()  # the other one's change is none of its business
    for name, parameter in together.named_parameters():
        torch.testing.assert_close(parameter.grad, apart.get_parameter(name).grad)
