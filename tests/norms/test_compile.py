"""Compiled networks: the same outputs, gradients and vectors as eager ones, and one round of iteration per update."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import NORMS as ALL
from poise.norms import normalized_weights

SPECTRAL = ["sn", "ssn", "bsn", "bssn"]
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ALL},
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
    "γ shared": ("sn", {"gamma": "shared"}),
    "operator": ("sn", {"operator": "conv", "input_size": 4}),
    "checked": ("bssn", {"check_finite": True}),
}
QUICK = "aot_eager"
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.ConvTranspose2d(3, 2, 1), nn.Flatten()),
        *(nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 6)),
    )


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(n))


def compiled(network: nn.Module, backend: str = QUICK) -> Any:
    return torch.compile(network, fullgraph=True, backend=backend)


def vectors(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers()}


def update(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in normalized_weights(network):
            weight.original.add_(torch.randn(weight.original.shape, generator=generator) / 5)


def train(network: nn.Module, call: Callable[[Tensor], Tensor], steps: int = 4) -> list[Tensor]:
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses = [call(images()).square().mean(), call(-images()).sigmoid().mean()]
        (losses[0] + losses[1] + poise.weight_penalty(network)).backward()
        found += [losses[0].detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]
        optimizer.step()
    network.eval()
    found.append(call(images()).detach())
    network.train()
    return found + list(vectors(network).values())


def same(network: nn.Module, backend: str) -> None:
    twin = copy.deepcopy(network)
    found, wanted = train(twin, compiled(twin, backend)), train(network, network)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


QUICK_NORMS = ("bssn", "clip", "γ shared")


def marks(name: str) -> list[Any]:
    return [] if name in QUICK_NORMS else [pytest.mark.slow]


@pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=marks(name)) for name, norm in OPTIONS.items()],
)
def test_a_compiled_network_trains_as_an_eager_one(norm):
    network = small()
    poise.normalize(network, norm[0], **norm[1])
    same(network, QUICK)


@pytest.mark.parametrize("norm", [OPTIONS["clip"], OPTIONS["sigma-clamp"]], ids=["clip", "sigma-clamp"])
def test_a_compiled_network_is_put_back_after_each_step(norm):
    network = small()
    poise.normalize(network, norm[0], **norm[1])
    network(images())
    same_as = copy.deepcopy(network)
    same_as(images())
    torch.testing.assert_close(train(network, compiled(network)), train(same_as, same_as), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("made", [lambda: nn.Linear(4, 4), pytest.param(lambda: nn.Conv2d(3, 3, 3))])
def test_inductors_forwards_without_an_update_do_not_iterate(made):
    layer = poise.normalize(made(), "bssn")
    layer(images())
    before = vectors(layer)
    call = compiled(layer, "inductor")
    for _ in range(2):
        call(images())
    torch.testing.assert_close(vectors(layer), before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("bssn"), pytest.param("γ shared"), "wn"])
def test_inductor_trains_as_eager(name):
    network = small()
    poise.normalize(network, OPTIONS[name][0], **OPTIONS[name][1])
    same(network, "inductor")


@pytest.mark.parametrize("norm", [pytest.param("sn", marks=pytest.mark.slow), "bssn"])
def test_compiled_and_eager_forwards_of_one_step_share_one_round(norm):
    network = small()
    poise.normalize(network, norm)
    call = compiled(network)
    for first, second in ((call, network), (network, call)):
        update(network)
        twin = copy.deepcopy(network)
        wanted = twin(images())
        outputs = [first(images()), second(images()), first(images())]
        for output in outputs:
            torch.testing.assert_close(output, wanted)
        torch.testing.assert_close(vectors(network), vectors(twin))


ARRIVALS: dict[str, Callable[[nn.Sequential], Any]] = {
    "copied": copy.deepcopy,
    "loaded": lambda network: (network.load_state_dict(small_state()), network)[1],
    "made double and back": lambda network: network.double().float(),
    "pickled": lambda network: pickle.loads(pickle.dumps(network)),
    "exchanged": lambda network: exchange(network),
    "loaded, assigned": lambda network: (network.load_state_dict(small_state(), assign=True), network)[1],
}


def small_state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return poise.normalize(small(), "bssn").state_dict()


def exchange(network: nn.Sequential) -> nn.Sequential:
    for weight in normalized_weights(network):
        weight.layer.get_submodule("parametrizations.weight").original = nn.Parameter(weight.original.detach().flip(0))
    return network


@pytest.mark.parametrize(
    "arrival",
    [
        pytest.param(
            arrival,
            marks=[] if arrival in ("loaded", "pickled") else SLOW,
        )
        for arrival in ARRIVALS
    ],
)
def test_compiled_forwards_of_a_weight_not_seen_before_iterate_once(arrival):
    network: Any = poise.normalize(small(), "bssn")
    update(network)
    network(images())
    network = ARRIVALS[arrival](network)
    call = compiled(network)
    call(images())
    once = vectors(network)
    call(images())
    torch.testing.assert_close(vectors(network), once, rtol=0, atol=0)
    network(images())
    torch.testing.assert_close(vectors(network), once, rtol=0, atol=0)


@pytest.mark.xfail(strict=True, reason="each layer is of a class of its own, for which dynamo compiles anew")
def test_equal_blocks_compiled_one_by_one_share_their_code():
    network = nn.Sequential(*[nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(10)])
    poise.normalize(network, "bssn")
    for block in network:
        block.compile(fullgraph=True, backend=QUICK)
    assert network(torch.randn(2, 6)).isfinite().all()


def test_an_operator_norm_that_awaits_its_input_says_so():
    network = poise.normalize(small(), "sn", operator="conv")
    with pytest.raises(Exception, match="run one batch through the module before it is compiled"):
        compiled(network)(images())
