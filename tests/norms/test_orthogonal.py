"""Orthogonal weights: torch's own parametrization on the matrix of output units × all else."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import poise
from poise.norms.orthogonal import orthonormal

MAPS = ["cayley", "matrix_exp", "householder", None]
CHOICES = [(name, trivialize) for name in MAPS for trivialize in (True, False)]
SHAPES = [(7, 4), (4, 7), (5, 5)]


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def error(weight: Any) -> float:
    """How far the rows, or the columns if they are fewer, are from orthonormal: the largest entry of the difference."""
    matrix = weight.detach().double().flatten(1)
    gram = matrix @ matrix.t() if len(matrix) <= matrix.shape[1] else matrix.t() @ matrix
    return (gram - torch.eye(len(gram))).abs().max().item()


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    (5 * layer(x).tanh()).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("orthogonal_map", "use_trivialization"), CHOICES)
def test_a_linear_layer_starts_and_learns_as_torchs(shape, orthogonal_map, use_trivialization):
    options: dict[str, Any] = {"orthogonal_map": orthogonal_map, "use_trivialization": use_trivialization}
    ours = nn.Linear(shape[1], shape[0]).double()
    theirs = copy.deepcopy(ours)
    torch.manual_seed(1)  # torch completes a basis at random
    poise.normalize(ours, "orthogonal", **options)
    torch.manual_seed(1)
    parametrizations.orthogonal(theirs, **options)
    optimizers = [torch.optim.SGD(layer.parameters(), 0.01) for layer in (ours, theirs)]
    for _ in range(4):
        torch.testing.assert_close(ours.weight, theirs.weight)
        x = torch.randn(3, shape[1], dtype=torch.float64)
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            step(layer, optimizer, x)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_start_is_the_qr_factor_of_the_weight_with_positive_diagonal(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    q = orthonormal(weight)
    assert error(q) < 1e-12
    triangle = q.t() @ weight if shape[0] >= shape[1] else q @ weight.t()
    torch.testing.assert_close(triangle, triangle.triu())
    assert (triangle.diagonal() > 0).all()
    torch.testing.assert_close(orthonormal(q), q)


@pytest.mark.parametrize("orthogonal_map", MAPS)
def test_an_orthogonal_weight_is_left_as_it_is(orthogonal_map):
    layer = nn.Conv2d(3, 4, 3)
    nn.init.orthogonal_(layer.weight)
    before = layer.weight.detach().clone()
    poise.normalize(layer, "orthogonal", orthogonal_map=orthogonal_map)
    torch.testing.assert_close(layer.weight.detach(), before)


@pytest.mark.parametrize(("orthogonal_map", "use_trivialization"), CHOICES)
@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop], ids=["SGD", "Adam", "RMSprop"]
)
def test_training_keeps_it_orthogonal_also_with_weight_decay(kind, orthogonal_map, use_trivialization):
    layer = nn.Conv2d(2, 5, 3)
    poise.normalize(layer, "orthogonal", orthogonal_map=orthogonal_map, use_trivialization=use_trivialization)
    optimizer = kind(layer.parameters(), lr=0.01, weight_decay=0.1)
    start = layer.weight.detach().clone()
    for _ in range(20):
        step(layer, optimizer, torch.randn(2, 2, 4, 4) / 4)
        assert error(layer.weight) < 1e-5
    assert (layer.weight - start).abs().max() > 1e-3


def test_averaged_weights_are_orthogonal():
    # −1 averaged with −1 need not be −1, and torch's map reads its diagonal of signs as integers.
    one, other = (poise.normalize(nn.Linear(4, 3), "orthogonal", orthogonal_map="householder") for _ in range(2))
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        for mean, weight in zip(other.parameters(), one.parameters(), strict=True):
            mean.mul_(0.9999).add_(weight, alpha=0.00009)
    assert error(other.weight) < 1e-5


@pytest.mark.parametrize("orthogonal_map", MAPS)
def test_a_weight_without_full_rank_still_starts_orthogonal(orthogonal_map):
    for fill in (0.0, 1.0):
        layer = nn.Linear(3, 5)
        nn.init.constant_(layer.weight, fill)
        poise.normalize(layer, "orthogonal", orthogonal_map=orthogonal_map)
        assert error(layer.weight) < 1e-5


def test_the_optimizer_may_be_made_before():
    layer = nn.Linear(4, 6)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    poise.normalize(layer, "orthogonal")
    before = layer.weight.detach().clone()
    step(layer, optimizer, torch.randn(3, 4))
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_layer_cast_to_fewer_bits_stays_as_orthogonal_as_they_can_say(kind):
    layer = poise.normalize(nn.Linear(4, 6), "orthogonal").to(kind)
    assert layer.weight.dtype == kind
    assert error(layer.weight.float()) < 4 * torch.finfo(kind).eps
    assert error(layer.float().weight) < 1e-5


@pytest.mark.parametrize("orthogonal_map", MAPS)
def test_gradients_are_exact(orthogonal_map):
    layer = poise.normalize(nn.Linear(2, 3).double(), "orthogonal", orthogonal_map=orthogonal_map)
    step = layer.get_submodule("parametrizations.weight.0")
    weight = torch.randn(3, 2, dtype=torch.float64)
    if orthogonal_map in ("householder", None):
        weight.diagonal().sign_()
        tangent = ~torch.eye(3, 2, dtype=torch.bool)  # the diagonal is one of signs

        def function(free: Tensor) -> Tensor:
            return step(torch.where(tangent, free, weight))

    else:
        function = step
    assert torch.autograd.gradcheck(function, (weight.clone().requires_grad_(),))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"orthogonal_map": "qr"},
            "^orthogonal_map is 'qr'; allowed: 'cayley', 'matrix_exp', 'householder', None$",
        ),
        ({"trivialize": False}, "^norm 'orthogonal' has no option 'trivialize'; did you mean 'use_trivialization'"),
    ],
)
def test_a_bad_option_is_refused(options, said):
    layer = nn.Linear(2, 2)
    before = list(layer.state_dict())
    with pytest.raises(ValueError, match=said):
        poise.normalize(layer, "orthogonal", **options)
    assert list(layer.state_dict()) == before


def test_a_weight_without_memory_is_refused():
    with pytest.raises(ValueError, match=r"this one is on the meta device: move the module by to_empty"):
        poise.normalize(nn.Linear(2, 2, device="meta"), "orthogonal")
