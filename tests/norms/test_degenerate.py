"""Weights at the edge: empty, single, of rank one, zero, with NaN or infinity; and what normalize refuses."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import poise

SPECTRAL = ["sn", "ssn", "bsn", "bssn"]
NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in [*SPECTRAL, "wn", "wn-strict", "frobenius", "clip", "sigma-clamp"]},
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
}
QUICK = ("sn", "bssn", "wn", "clip")  # the others take as long again, and more
EACH_NORM = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, norm in NORMS.items()],
)
pytestmark = pytest.mark.usefixtures("arithmetic")
EMPTY: dict[str, Callable[[], nn.Module]] = {
    "linear without inputs": lambda: nn.Linear(0, 5),
    "linear without outputs": lambda: nn.Linear(5, 0),
    "embedding of nothing": lambda: nn.Embedding(0, 4),
    "conv without inputs": lambda: nn.Conv2d(0, 3, 3),
}


def step(layer: nn.Module) -> None:
    weight: Any = layer.weight
    (weight * torch.randn_like(weight)).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    layer.zero_grad()


def fill(layer: nn.Module, values: torch.Tensor) -> None:
    with torch.no_grad():
        layer.get_parameter("parametrizations.weight.original").copy_(values)


@EACH_NORM
@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("pair", [False, True], ids=["alone", "two"])
def test_an_empty_weight_is_left_empty(request, norm, kind, pair):
    if norm[0] == "sigma-clamp" or (norm[0] in ("bsn", "bssn") and kind == "conv without inputs"):
        reason = "what begins u and v, or the clamp, takes no empty matrix"
        request.applymarker(pytest.mark.xfail(strict=True, raises=RuntimeError, reason=reason))
    made = EMPTY[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is nothing to initialize
        network: Any = nn.Sequential(made(), *([made()] if pair else []))
    poise.normalize(network, norm[0], **norm[1])
    for _ in range(2):
        for layer in network:
            step(layer)
    assert sum(layer.weight.numel() for layer in network) == 0
    poise.denormalize(copy.deepcopy(network))


@EACH_NORM
@pytest.mark.parametrize("pair", [False, True], ids=["alone", "two"])
@pytest.mark.parametrize("value", [2.0, -3.0, 0.0])
def test_a_weight_of_one_entry(norm, pair, value):
    network: Any = poise.normalize(nn.Sequential(*[nn.Linear(1, 1) for _ in range(1 + pair)]), norm[0], **norm[1])
    for layer in network:
        fill(layer, torch.full((1, 1), value))
        wanted = {"wn": None, "clip": value, "sigma-clamp": value, "ssn": 1.4, "bssn": 1.4}.get(norm[0], 1.0)
        if wanted is not None and norm[0] not in ("clip", "sigma-clamp"):
            wanted *= (value > 0) - (value < 0)
        if wanted is not None:
            assert layer.weight.item() == pytest.approx(wanted)
        step(layer)
        assert layer.weight.isfinite().all()


@EACH_NORM
@pytest.mark.parametrize("pair", [False, True], ids=["alone", "two"])
def test_a_weight_of_rank_one(norm, pair):
    network: Any = poise.normalize(nn.Sequential(*[nn.Conv2d(4, 5, 3) for _ in range(1 + pair)]), norm[0], **norm[1])
    left, right = torch.randn(5), torch.randn(36)
    for layer in network:
        fill(layer, torch.outer(left, right).view(5, 4, 3, 3))
        _ = layer.weight
        step(layer)
        assert layer.weight.isfinite().all()
        fill(layer, torch.outer(left, right).view(5, 4, 3, 3))
        sigma = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        if norm[0] in ("sn", "ssn", "frobenius"):
            assert sigma == pytest.approx(1.4 if norm[0] == "ssn" else 1.0, rel=1e-5)


@EACH_NORM
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("pair", [False, True], ids=["alone", "two"])
def test_a_bad_weight_shows_spoils_no_other_and_can_be_mended(norm, bad, pair):
    network: Any = poise.normalize(nn.Sequential(*[nn.Linear(4, 4) for _ in range(1 + pair)]), norm[0], **norm[1])
    layer, values = network[0], torch.randn(4, 4)
    _ = network(torch.ones(1, 4))
    fill(layer, torch.full((4, 4), bad))
    for _ in range(2):
        for part in network:
            step(part)
    if norm[0] != "clip":
        assert not layer.weight.isfinite().all()
    for part in network[1:]:
        assert part.weight.isfinite().all()
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    fill(layer, values)
    for _ in range(2):
        step(layer)
    assert layer.weight.isfinite().all()
    assert network.state_dict() is not None
    assert all(tensor.isfinite().all() for tensor in network.buffers())


@EACH_NORM
@pytest.mark.parametrize("pair", [False, True], ids=["alone", "two"])
def test_a_zero_weight_stays_zero_with_finite_gradient(norm, pair):
    network: Any = nn.Sequential(*[nn.Linear(4, 4) for _ in range(1 + pair)])
    nn.init.zeros_(network[0].weight)
    poise.normalize(network, norm[0], **norm[1])
    for part in network:
        (part.weight * torch.randn(4, 4)).sum().backward()
    assert not network[0].weight.any()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    original = network[0].get_parameter("parametrizations.weight.original")
    if norm[0] not in ("wn", "clip", "sigma-clamp"):
        assert original.grad is not None
        assert original.grad.any()


@EACH_NORM
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_check_names_the_layer(norm, bad, training):
    network = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), "head": nn.Linear(3, 2)})
    poise.normalize(network, norm[0], check_finite=True, **norm[1]).train(training)
    body: Any = network["body"]
    body(torch.ones(1, 3))
    fill(body[1], torch.full((3, 3), bad))
    network["head"](torch.ones(1, 3))
    with pytest.raises(FloatingPointError, match=r"'body\.1'.* in 9 of 9 entries"):
        body(torch.ones(1, 3))


@EACH_NORM
@pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.LazyConv2d(4, 3), nn.LazyConvTranspose1d(4, 3)])
def test_a_lazy_layer_is_refused_until_it_is_known(norm, lazy):
    network = nn.Sequential(nn.Linear(2, 2), copy.deepcopy(lazy))
    with pytest.raises(ValueError, match="has no weight yet; run one batch"):
        poise.normalize(network, norm[0], **norm[1])
    assert "0.weight" in dict(network.named_parameters())


@EACH_NORM
def test_inference_mode_is_refused(norm):
    network = nn.Linear(2, 2)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference mode"):
        poise.normalize(network, norm[0], **norm[1])
    assert list(network.state_dict()) == ["weight", "bias"]
