"""BigGAN's penalty on the leading singular value, against the singular value decomposition in float64."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import SigmaReg


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def with_singular_values(shape: tuple[int, int], values: list[float]) -> Tensor:
    u, _ = torch.linalg.qr(torch.randn(shape[0], len(values), dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(shape[1], len(values), dtype=torch.float64))
    return (u * torch.tensor(values, dtype=torch.float64)) @ v.t()


def layer_with(values: list[float], **options: Any) -> tuple[nn.Module, nn.Parameter]:
    layer = nn.Linear(7, 5).double()
    with torch.no_grad():
        layer.weight.copy_(with_singular_values((5, 7), values))
    poise.normalize(layer, "sigma-reg", **options)
    return layer, layer.get_parameter("parametrizations.weight.original")


def vectors(layer: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in layer.named_buffers()}


@pytest.mark.parametrize(
    ("options", "target"),
    [({}, 1.0), ({"sigma": 2.0}, 2.0), ({"ratio": 1.0}, 2.0), ({"ratio": 1.25}, 2.5), ({"sigma": 6.0}, 6.0)],
)
@pytest.mark.parametrize("coefficient", [1.0, 0.25])
def test_the_penalty_is_the_squared_distance_of_sigma_0_and_so_is_its_gradient(options, target, coefficient):
    layer, weight = layer_with([4, 2, 1, 0.5, 0.1], coefficient=coefficient, **options)
    penalty = poise.weight_penalty(layer)
    torch.testing.assert_close(penalty, torch.tensor(coefficient * (4 - target) ** 2).double())
    penalty.backward()
    u, _, vh = torch.linalg.svd(weight.detach())
    expected = 2 * coefficient * (4 - target) * torch.outer(u[:, 0], vh[0])
    torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_it_is_differentiable_twice_with_the_vectors_held_constant():
    layer, weight = layer_with([4, 2, 1, 0.5, 0.1])
    norm = layer.eval().get_submodule("parametrizations.weight.0")
    assert isinstance(norm, SigmaReg)
    copied = weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(norm.penalty, (copied,))
    assert torch.autograd.gradgradcheck(norm.penalty, (copied,))


def test_a_layer_computes_as_it_did():
    plain = nn.Conv2d(3, 4, 3)
    layer = poise.normalize(copy.deepcopy(plain), "sigma-reg")
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(layer(x), plain(x))


def test_the_sum_is_over_every_layer_and_each_map_of_a_packed_weight():
    attention, deconv = nn.MultiheadAttention(4, 2).double(), nn.ConvTranspose2d(3, 5, 2).double()
    network = nn.ModuleList([attention, deconv])
    packed = attention.in_proj_weight.detach().chunk(3)
    matrices = [*packed, attention.out_proj.weight, deconv.weight.transpose(0, 1).flatten(1)]
    with torch.no_grad():
        expected = torch.stack([(torch.linalg.matrix_norm(matrix, 2) - 1.5).square() for matrix in matrices]).sum()
    poise.normalize(network, "sigma-reg", sigma=1.5)
    torch.testing.assert_close(poise.weight_penalty(network), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", ["none", "bssn", "clip"])
def test_a_module_without_a_penalty_adds_nothing(norm):
    network = poise.normalize(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), norm)
    penalty = poise.weight_penalty(network)
    assert penalty.shape == ()
    assert penalty.item() == 0
    assert not penalty.requires_grad
    assert poise.weight_penalty(nn.ReLU()).item() == 0


def test_only_the_selected_layers_are_penalized():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).double()
    poise.normalize(network, "sigma-reg", layers="1")
    with torch.no_grad():
        expected = (torch.linalg.matrix_norm(network[1].weight, 2) - 1).square()
    torch.testing.assert_close(poise.weight_penalty(network).detach(), expected, rtol=1e-4, atol=1e-8)


def test_the_vectors_follow_training_and_sigma_comes_to_the_target():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    poise.normalize(network, "sigma-reg", sigma=2.0, coefficient=0.5)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (network(torch.randn(8, 3, 5, 5)).tanh().mean() + poise.weight_penalty(network)).backward()
        optimizer.step()
    for layer in (network[0], network[3]):
        weight: Any = layer.weight
        assert torch.linalg.matrix_norm(weight.detach().flatten(1), 2).item() == pytest.approx(2, abs=0.05)


# One round per update


def test_the_penalty_is_the_same_until_the_next_update_and_one_round_runs_for_each(monkeypatch):
    layer, _ = layer_with([3, 2.9, 2.8, 1, 0.5])
    rounds: list[Tensor] = []
    renew = SigmaReg._renew

    def counted(norm: SigmaReg, weight: Tensor) -> None:
        rounds.append(weight)
        renew(norm, weight)

    monkeypatch.setattr(SigmaReg, "_renew", counted)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, fused=True)
    for update in range(4):
        first = poise.weight_penalty(layer)
        layer(torch.randn(2, 7).double())
        assert torch.equal(poise.weight_penalty(layer), first)
        assert len(rounds) == update  # its vectors belong to the weight it was built for
        optimizer.zero_grad()
        first.backward()
        optimizer.step()
    layer.eval()
    before = vectors(layer)
    poise.weight_penalty(layer)
    with torch.inference_mode():
        poise.weight_penalty(layer.train())
    assert all(torch.equal(tensor, before[name]) for name, tensor in vectors(layer).items())


def test_earlier_penalties_can_still_be_differentiated():
    layer, weight = layer_with([4, 2, 1, 0.5, 0.1])
    early = poise.weight_penalty(layer)
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))
    late = poise.weight_penalty(layer)
    assert not torch.equal(early, late)
    early.backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("waits", [False, True], ids=["measured", "round due"])
@pytest.mark.parametrize("way", ["state dict", "deepcopy", "pickle"])
def test_a_saved_module_goes_on_as_it_would_have(way, waits):
    layer, weight = layer_with([3, 2.9, 2.8, 1, 0.5], ratio=1.0)
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))
    if not waits:
        poise.weight_penalty(layer)
    if way == "state dict":
        twin, _ = layer_with([1, 1, 1, 1, 1], ratio=1.0)
        twin.load_state_dict(layer.state_dict())
    else:
        twin = copy.deepcopy(layer) if way == "deepcopy" else pickle.loads(pickle.dumps(layer))
    for _ in range(2):
        assert torch.equal(poise.weight_penalty(twin), poise.weight_penalty(layer))
        for each in (layer, twin):
            with torch.no_grad():
                each.get_parameter("parametrizations.weight.original").mul_(torch.linspace(0.5, 1, 7).double())


def test_a_function_of_the_parameters_leaves_the_module_as_it_was():
    layer, weight = layer_with([4, 2, 1, 0.5, 0.1])
    before = vectors(layer)
    norm = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(norm, SigmaReg)
    found = torch.func.grad(norm.penalty)(weight.detach() * 1.1)
    u, _, vh = torch.linalg.svd(weight.detach())
    torch.testing.assert_close(found, 2 * (4.4 - 1) * torch.outer(u[:, 0], vh[0]), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vectors(layer).items())


# Weights that are out of the ordinary


@pytest.mark.parametrize(
    "weight", [torch.zeros(3, 4), torch.ones(3, 4), torch.ones(1, 4), torch.ones(1, 1)], ids=["0", "1", "row", "1 × 1"]
)
def test_without_a_second_singular_value_there_is_no_ratio_to_hold(weight):
    layer = nn.Linear(*weight.t().shape)
    with torch.no_grad():
        layer.weight.copy_(weight)
    poise.normalize(layer, "sigma-reg", ratio=1.5)
    penalty = poise.weight_penalty(layer)
    assert penalty.item() == pytest.approx(0, abs=1e-10)
    penalty.backward()
    torch.testing.assert_close(layer.get_parameter("parametrizations.weight.original").grad, torch.zeros_like(weight))


def test_a_zero_weight_is_pushed_out_along_a_unit_matrix():
    layer = nn.Linear(4, 3).double()
    nn.init.zeros_(layer.weight)
    poise.normalize(layer, "sigma-reg", sigma=1.0)
    penalty = poise.weight_penalty(layer)
    penalty.backward()
    assert penalty.item() == 1
    grad = layer.get_parameter("parametrizations.weight.original").grad
    assert grad is not None
    torch.testing.assert_close(torch.linalg.svdvals(grad), torch.tensor([2.0, 0.0, 0.0]).double(), atol=1e-14, rtol=0)


def test_a_weight_that_is_not_finite_shows_and_is_forgotten():
    layer, weight = layer_with([4, 2, 1, 0.5, 0.1])
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = float("nan")
    assert poise.weight_penalty(layer).isnan()
    with torch.no_grad():
        weight.copy_(before)
    assert poise.weight_penalty(layer).item() == pytest.approx(9)


@pytest.mark.parametrize(
    ("norm", "options", "said"),
    [
        (norm, options, said)
        for norm in ("sigma-reg", "sigma-clamp")
        for options, said in [
            ({"sigma": 0.0}, "^sigma is 0.0; it must be above 0 and finite$"),
            ({"sigma": float("inf")}, "^sigma is inf"),
            ({"ratio": 0.5}, "^ratio is 0.5; it must be at least 1 and finite$"),
            ({"ratio": float("nan")}, "^ratio is nan"),
            ({"sigma": 1.0, "ratio": 2.0}, "^sigma is 1.0 and ratio is 2.0; give one of them$"),
        ]
    ]
    + [
        ("sigma-reg", {"coefficient": 0.0}, "^coefficient is 0.0; it must be above 0 and finite$"),
        ("sigma-reg", {"coeficient": 1.0}, "^norm 'sigma-reg' has no option 'coeficient'; did you mean 'coefficient'"),
    ],
)
def test_a_bad_option_is_refused(norm, options, said):
    layer = nn.Linear(2, 2)
    before = list(layer.state_dict())
    with pytest.raises(ValueError, match=said):
        poise.normalize(layer, norm, **options)
    assert list(layer.state_dict()) == before
