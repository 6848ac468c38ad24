"""Normalized networks travel: pickles, files, other processes."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

import poise
from poise.norms import normalized_weights

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {}) for name in ("sn", "ssn", "bsn", "bssn", "wn", "wn-strict", "frobenius", "clip", "sigma-clamp")
    },
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
    "γ shared": ("sn", {"gamma": "shared"}),
    "operator": ("sn", {"operator": "conv"}),
    "operator, known size": ("ssn", {"operator": "conv", "input_size": 4}),
    "checked": ("bssn", {"check_finite": True}),
}
QUICK = ("bssn", "wn", "γ shared")  # the others take as long again, and more
EACH_NORM = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, norm in NORMS.items()],
)


def through_a_file(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "pickle": lambda network: pickle.loads(pickle.dumps(network)),
    "pickle, protocol 2": lambda network: pickle.loads(pickle.dumps(network, protocol=2)),
    "file": through_a_file,
    "deepcopy": copy.deepcopy,
    "one after the other": lambda network: pickle.loads(pickle.dumps(through_a_file(network))),
}


def images() -> Tensor:
    return torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def update(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in normalized_weights(network):
            weight.original.add_(torch.randn(weight.original.shape, generator=generator) / 5)


def train(network: nn.Module, steps: int = 3) -> list[Tensor]:
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    outputs = []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs.append(network(images()))
        (outputs[-1].square().mean() + network(-images()).mean()).backward()
        optimizer.step()
    return [*outputs, *network.state_dict().values()]


@EACH_NORM
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("last", ["update", "pending graph", "eval"])
def test_what_arrives_goes_on_as_the_original(network, norm, way, last):
    poise.normalize(network, norm[0], **norm[1])
    train(network, 2)
    update(network)
    if last == "eval":
        network.eval()
    pending = network(images()) if last == "pending graph" else None
    arrived = way(network)
    assert arrived.training == network.training
    assert list(arrived.state_dict()) == list(network.state_dict())
    assert [name for name, _ in arrived.named_parameters()] == [name for name, _ in network.named_parameters()]
    assert [weight.name for weight in normalized_weights(arrived)] == [w.name for w in normalized_weights(network)]
    found, wanted = train(arrived), train(network)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not {id(p) for p in arrived.parameters()} & {id(p) for p in network.parameters()}
    del pending


@EACH_NORM
def test_a_network_not_used_yet_travels_too(network, norm):
    poise.normalize(network, norm[0], **norm[1])
    arrived = pickle.loads(pickle.dumps(network))
    torch.testing.assert_close(arrived(images()), network(images()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arrival", ["pickle", "load_state_dict, assign"])
def test_a_copy_of_what_just_arrived_goes_on_as_the_original(network, arrival):
    poise.normalize(network, "bssn")
    update(network)
    wanted = network(images())
    if arrival == "pickle":
        arrived = pickle.loads(pickle.dumps(network))
    else:
        arrived = copy.deepcopy(network)
        arrived.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()}, assign=True)
    torch.testing.assert_close(copy.deepcopy(arrived)(images()), wanted)


def test_a_shared_gamma_stays_shared(network):
    poise.normalize(network, "bssn", gamma="shared")
    arrived = pickle.loads(pickle.dumps(network))
    gammas = [p for name, p in arrived.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 1
    before = arrived(images())
    with torch.no_grad():
        gammas[0].fill_(0.0)
    assert not arrived(images()).any()
    assert before.any()


@EACH_NORM
def test_part_of_a_network_travels_alone(network, norm):
    poise.normalize(network, norm[0], **norm[1])
    network(images())
    part = pickle.loads(pickle.dumps(network[:3]))
    torch.testing.assert_close(part(images()), network[:3](images()))
    train(part)


def _work(network: nn.Module, path: str) -> None:
    torch.set_num_threads(1)
    torch.save(train(network), path)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [("bssn", {"gamma": "shared"}), ("wn", {})], ids=["bssn", "wn"])
def test_a_spawned_process_trains_what_it_is_given(equal_layers, norm, tmp_path):
    network = poise.normalize(equal_layers(), norm[0], **norm[1])
    update(network)
    twin = copy.deepcopy(network)
    context = torch.multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(twin, str(tmp_path / "found")))
    process.start()
    process.join()
    assert process.exitcode == 0
    torch.testing.assert_close(torch.load(tmp_path / "found"), [tensor.detach() for tensor in train(network)])
