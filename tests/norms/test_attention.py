"""Attention: queries, keys and values are three maps, each normalized on its own."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import normalized_weights

SPECTRAL = ["sn", "ssn", "bsn", "bssn"]
SCALES = {"sn": 1.0, "ssn": 1.4, "bsn": 1.0, "bssn": 1.4}
NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in [*SPECTRAL, "wn", "wn-strict", "frobenius", "clip", "sigma-clamp"]},
    "γ per layer": ("bssn", {"gamma": "per-layer"}),
    "γ shared": ("sn", {"gamma": "shared"}),
}
EACH_SPECTRAL = pytest.mark.parametrize(
    "norm", [pytest.param(norm, marks=() if norm == "bssn" else pytest.mark.slow) for norm in SPECTRAL]
)
QUICK = ("bssn", "wn-strict", "γ shared")  # the others take as long again, and more
EACH_NORM = pytest.mark.parametrize(
    "norm",
    [pytest.param(norm, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, norm in NORMS.items()],
)
KINDS: dict[str, dict[str, Any]] = {
    "packed": {},
    "packed, no bias": {"bias": False},
    "separate": {"kdim": 5, "vdim": 3},
    "sequence first": {"batch_first": False},
    "bias of keys": {"add_bias_kv": True},
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def attention(kind: dict[str, Any]) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(8, 2, **{"batch_first": True, **kind}).double()


def inputs(layer: nn.MultiheadAttention) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = (8, layer.kdim or 8, layer.vdim or 8)
    if sizes == (8, 8, 8):
        return [torch.randn(4, 6, 8, dtype=torch.float64, generator=generator)] * 3
    return [torch.randn(4, 6, size, dtype=torch.float64, generator=generator) for size in sizes]


def maps(layer: Any) -> list[Tensor]:
    """The weights of queries, keys and values."""
    if layer.in_proj_weight is not None:
        return list(layer.in_proj_weight.chunk(3))
    return [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]


def converge(layer: nn.Module) -> None:
    with torch.no_grad():
        for _ in range(300):
            for weight in normalized_weights(layer):
                weight.original.mul_(1)
                getattr(weight.layer, weight.parameter)


def update(layer: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in normalized_weights(layer):
            weight.original.add_(torch.randn(weight.original.shape, generator=generator) / 3)


@EACH_SPECTRAL
@EACH_KIND
def test_each_map_is_divided_by_its_own_largest_singular_value(kind, norm):
    layer = attention(kind)
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        maps(plain)[1].mul_(10)
        maps(layer)[1].mul_(10)
    poise.normalize(layer, norm)
    converge(layer)
    pairs = [*zip(maps(layer), maps(plain), strict=True), (layer.out_proj.weight, plain.out_proj.weight)]
    for found, weight in pairs:
        torch.testing.assert_close(found, SCALES[norm] * weight / torch.linalg.matrix_norm(weight, 2))


@EACH_NORM
@EACH_KIND
def test_attention_computes_with_the_normalized_maps(kind, norm):
    layer = attention(kind)
    poise.normalize(layer, norm[0], **norm[1])
    update(layer)
    found, weights = layer(*inputs(layer))
    twin = copy.deepcopy(layer)
    poise.denormalize(twin)
    assert type(twin) is nn.MultiheadAttention
    assert not any("parametrizations" in name for name in twin.state_dict())
    keys = {key for key in attention(kind).state_dict() if norm[0] != "wn-strict" or not key.endswith("proj.bias")}
    assert set(twin.state_dict()) == keys - ({"in_proj_bias"} if norm[0] == "wn-strict" else set())
    for wanted, other in ((found, weights), layer.eval()(*inputs(layer))):
        output, attended = twin(*inputs(layer))
        torch.testing.assert_close(output, wanted)
        torch.testing.assert_close(attended, other)


@EACH_NORM
@EACH_KIND
def test_attention_trains_alike_with_two_forwards_copies_and_pickles(kind, norm):
    layer = attention(kind)
    poise.normalize(layer, norm[0], **norm[1])
    update(layer)
    pending = layer(*inputs(layer))[0]
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    results = []
    for index, each in enumerate((layer, *twins)):
        optimizer = torch.optim.SGD(each.parameters(), 0.05)
        for _ in range(3):
            optimizer.zero_grad()
            losses = [each(*inputs(layer))[0].square().sum(), each(*[-x for x in inputs(layer)])[0].sum()]
            if index:
                sum(losses).backward()
            else:
                for loss in losses:
                    loss.backward()
            optimizer.step()
        results.append(dict(each.state_dict()))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])
    assert pending.isfinite().all()


@pytest.mark.parametrize("kind", [KINDS["packed"], KINDS["separate"]], ids=["packed", "separate"])
def test_a_frozen_layer_gets_no_gradient_and_an_edit_is_noticed(kind):
    layer = attention(kind)
    poise.normalize(layer, "bssn")
    pending = layer(*inputs(layer))[0]
    layer.requires_grad_(False)
    x = [tensor.clone().requires_grad_() for tensor in inputs(layer)]
    layer(*x)[0].sum().backward()
    assert all(p.grad is None for p in layer.parameters())
    layer.requires_grad_(True)
    pending.sum().backward()
    assert all(p.grad is not None for name, p in layer.named_parameters() if "weight" in name)
    lengths = [part.norm().item() for part in maps(layer)]
    with torch.no_grad():
        for weight in normalized_weights(layer):
            weight.original.mul_(5)
    assert [part.norm().item() for part in maps(layer)] == pytest.approx(lengths, rel=0.05)


@EACH_NORM
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_layers_fast_path_is_its_slow_one(norm, norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    poise.normalize(network, norm[0], **norm[1])
    update(network)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    wanted = network(x)
    wanted.sum().backward()
    network.eval()
    torch.testing.assert_close(network(x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(network(x), wanted)  # the fast path of torch
    with torch.inference_mode():
        torch.testing.assert_close(network(x).clone(), wanted.detach())
    poise.denormalize(network)
    with torch.no_grad():
        torch.testing.assert_close(network(x), wanted)


@EACH_KIND
def test_strict_attention_has_no_biases(kind):
    layer = attention(kind)
    poise.normalize(layer, "wn-strict")
    assert layer.in_proj_bias is None
    assert layer.out_proj.bias is None
    for part in maps(layer):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize(("gamma", "count"), [("per-layer", 2), ("shared", 1)])
@pytest.mark.parametrize("kind", [KINDS["packed"], KINDS["separate"]], ids=["packed", "separate"])
def test_gamma_scales_maps_and_biases(kind, gamma, count):
    layer = attention(kind)
    nn.init.ones_(layer.in_proj_bias)
    poise.normalize(layer, "sn", gamma=gamma)
    gammas = [p for name, p in layer.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == count
    before = [*maps(layer), layer.in_proj_bias]
    with torch.no_grad():
        for p in gammas:
            p.fill_(2.0)
    for found, old in zip([*maps(layer), layer.in_proj_bias], before, strict=True):
        torch.testing.assert_close(found, 2 * old)
