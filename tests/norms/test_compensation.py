"""Spectral compensation against the singular value decomposition in float64, and against the authors' procedure."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import poise
from poise.norms import SpectralCompensation


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def normalized(layer: nn.Module, **options: Any) -> tuple[Any, SpectralCompensation, nn.Parameter]:
    """The layer, its normalization and its trained weight."""
    poise.normalize(layer, "spectral-compensation", **options)
    norm = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(norm, SpectralCompensation)
    return layer, norm, layer.get_parameter("parametrizations.weight.original")


def rebuilt(weight: Tensor, ratios: np.ndarray) -> Tensor:
    """The authors' procedure: replace the singular values, then divide by the first."""
    matrix = weight.detach().double().numpy()
    left, values, right = np.linalg.svd(matrix.reshape(len(matrix), -1), full_matrices=False)
    values = np.maximum(values, ratios * values[0])
    return torch.tensor((left * values) @ right / values[0]).view(weight.shape)


def set_ratios(weight: Tensor, ratios: list[float]) -> None:
    """Give the weight these singular values, in units of 3."""
    left, _, right = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    with torch.no_grad():
        weight.copy_(((left * 3 * torch.tensor(ratios, dtype=weight.dtype)) @ right).view(weight.shape))


@pytest.mark.parametrize(
    ("fraction", "lifted"), [(None, 3), (0.0, 0), (0.1, 0), (1 / 3, 2), (0.5, 3), (0.7, 4), (5 / 6, 5), (1.0, 6)]
)
def test_static_lifts_the_first_part_of_the_singular_values_to_the_first(fraction, lifted):
    layer, _, weight = normalized(nn.Conv2d(4, 6, 3), fraction=fraction)
    expected = rebuilt(weight, np.where(np.arange(6) < lifted, 1.0, 0.0))
    torch.testing.assert_close(layer.weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_nothing_lifted_is_spectral_normalization():
    layer, _, weight = normalized(nn.Linear(5, 7).double(), fraction=0)
    torch.testing.assert_close(layer.weight, weight / torch.linalg.matrix_norm(weight.detach(), 2))


def test_dynamic_lets_no_ratio_fall_below_the_largest_it_has_had():
    layer, norm, weight = normalized(nn.Conv2d(2, 4, 2).double(), form="dynamic")
    # No two alike in a row: their vectors would be any two of a plane.
    history = [[1, 0.5, 0.4, 0.1], [1, 0.8, 0.2, 0.15], [1, 0.12, 0.1, 0.05], [1, 0.95, 0.9, 0.2]]
    largest = np.zeros(4)
    for ratios in history:
        set_ratios(weight, ratios)
        largest = np.maximum(largest, ratios)
        for _ in range(2):
            torch.testing.assert_close(layer.weight, rebuilt(weight, largest))
            torch.testing.assert_close(norm.ratios, torch.tensor(largest))


def test_dynamic_remembers_in_training_alone():
    layer, norm, weight = normalized(nn.Linear(4, 4).double(), form="dynamic")
    set_ratios(weight, [1, 0.5, 0.2, 0.2])
    layer.weight  # noqa: B018
    before = norm.ratios
    set_ratios(weight, [1, 0.9, 0.1, 0.1])
    expected = rebuilt(weight, np.array([1, 0.5, 0.2, 0.2]))
    with torch.inference_mode():
        torch.testing.assert_close(layer.weight, expected)
    torch.testing.assert_close(layer.eval().weight, expected)
    assert norm.ratios is before
    assert (
        torch.func.grad(lambda w: layer.train().parametrizations.weight[0](w).sum())(weight.detach()).isfinite().all()
    )
    assert norm.ratios is before
    layer.weight.sum().backward()
    torch.testing.assert_close(norm.ratios, torch.tensor([1, 0.9, 0.2, 0.2]).double())


def test_the_compensated_discriminator_does_not_collapse_to_one_direction():
    # A loss that wants the weight of rank one: spectral normalization alone lets it have that.
    target = torch.outer(torch.randn(6), torch.randn(8))
    second = {}
    options: dict[str, Any] = {"sn": {}, "spectral-compensation": {"form": "dynamic"}}
    for norm in options:
        torch.manual_seed(1)
        layer: Any = poise.normalize(nn.Linear(8, 6), norm, **options[norm])
        optimizer = torch.optim.SGD(layer.parameters(), 1.0)
        for _ in range(100):
            optimizer.zero_grad()
            (-(layer.weight * target).sum()).backward()
            optimizer.step()
        second[norm] = torch.linalg.svdvals(layer.weight.detach())[1].item()
    assert second["sn"] < 0.2
    assert second["spectral-compensation"] > 0.5


# Gradients


def held(norm: SpectralCompensation, weight: Tensor) -> Any:
    """The norm as a function of the weight with its singular vectors, and which are lifted, held constant."""
    triples = norm._decompose(weight)

    def kept(weight: Tensor) -> Any:
        return triples

    norm._decomposed = kept  # type: ignore[method-assign]
    return norm


@pytest.mark.parametrize("options", [{}, {"fraction": 1}, {"fraction": 0}, {"form": "dynamic"}], ids=str)
def test_gradients_are_exact_to_second_order_with_the_vectors_held_constant(options):
    _, norm, weight = normalized(nn.Conv2d(2, 3, 2).double(), **options)
    if "form" in options:
        norm.ratios = torch.tensor([1, 0.9, 0.0]).double()
    point = weight.detach().clone().requires_grad_()
    function = held(norm.eval(), point)
    assert torch.autograd.gradcheck(function, (point,))
    assert torch.autograd.gradgradcheck(function, (point,))


@pytest.mark.parametrize("fraction", [0, 0.5, 1])
def test_the_gradient_is_eq_11_without_what_was_lifted(fraction):
    layer, _, weight = normalized(nn.Linear(5, 4).double(), fraction=fraction)
    upstream = torch.randn(4, 5).double()
    (layer.weight * upstream).sum().backward()
    u, s, vh = torch.linalg.svd(weight.detach(), full_matrices=False)
    lifted = [k for k in range(1, 4) if k < 4 * fraction]
    parts = [torch.outer(u[:, k], vh[k]) for k in range(4)]
    free, rest = upstream.clone(), weight.detach().clone()
    for k in lifted:
        free -= (upstream * parts[k]).sum() * parts[k]
        rest -= s[k] * parts[k]
    expected = (free - (upstream * rest / s[0]).sum() * parts[0]) / s[0]
    torch.testing.assert_close(weight.grad, expected)
    # A weight is as good at any length: the gradient does not change it.
    assert (expected * weight.detach()).sum().abs() < 1e-12


# Once per update


def count_decompositions(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    calls: list[Tensor] = []
    svd = torch.linalg.svd

    def counted(matrix: Tensor, **options: Any) -> Any:
        calls.append(matrix)
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    return calls


def test_one_decomposition_per_weight_update(monkeypatch):
    layer, _, _ = normalized(nn.Linear(4, 3))
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, fused=True)
    calls = count_decompositions(monkeypatch)
    for update in range(1, 4):
        losses = [layer(torch.randn(2, 4)).sum() for _ in range(2)]
        with torch.no_grad():
            layer.eval()(torch.randn(2, 4))
        layer.train()
        assert len(calls) == update
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.weight, layer.weight)


def test_the_first_forward_in_inference_mode_leaves_the_layer_trainable():
    layer, _, weight = normalized(nn.Linear(4, 3), form="dynamic")
    with torch.inference_mode():
        layer(torch.randn(2, 4))
    layer(torch.randn(2, 4)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_moving_to_another_type_finds_the_vectors_anew():
    layer, _, _ = normalized(nn.Linear(4, 3), fraction=1)
    layer(torch.randn(2, 4))
    layer.double()
    matrix = layer.weight.detach()
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(3).double(), rtol=0, atol=1e-12)


def test_compiled_it_is_the_same():
    torch._dynamo.reset()
    layer, _, _ = normalized(nn.Linear(4, 3), form="dynamic")
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(3):
        x = torch.randn(2, 4)
        torch.testing.assert_close(compiled(x), twin(x))
        for each in (layer, twin):
            with torch.no_grad():
                each.get_parameter("parametrizations.weight.original").mul_(torch.tensor([[1.0, 0.1, 2.0, 1.0]]))


# Weights that are out of the ordinary


@pytest.mark.parametrize("options", [{}, {"fraction": 1}, {"form": "dynamic"}], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_shows_and_is_forgotten(options, bad):
    layer, norm, weight = normalized(nn.Linear(4, 3), **options)
    good = layer.weight.detach().clone()
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = bad
    assert not layer.weight.isfinite().all()
    with torch.no_grad():
        weight.copy_(before)
    assert torch.equal(layer.weight, good)
    assert all(buffer.isfinite().all() for buffer in norm.buffers())


@pytest.mark.parametrize("options", [{}, {"form": "dynamic"}], ids=str)
def test_a_zero_weight_stays_zero_and_can_learn(options):
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    layer, _, weight = normalized(layer, **options)
    assert not layer.weight.any()
    upstream = torch.randn(3, 4)
    (layer.weight * upstream).sum().backward()
    torch.testing.assert_close(weight.grad, upstream)


def test_equal_singular_values_are_no_trouble():
    layer = nn.Linear(4, 4)
    nn.init.eye_(layer.weight)
    layer, _, weight = normalized(layer)
    torch.testing.assert_close(layer.weight.detach(), torch.eye(4))
    layer.weight.sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "fixed"}, "^form is 'fixed'; allowed: 'static', 'dynamic'$"),
        ({"fraction": 1.5}, "^fraction is 1.5; it must be from 0 to 1$"),
        ({"fraction": -0.1}, "^fraction is -0.1"),
        ({"fraction": float("nan")}, "^fraction is nan"),
        ({"form": "dynamic", "fraction": 0.5}, "^fraction is 0.5; the dynamic form has none"),
        ({"ratio": 0.5}, "^norm 'spectral-compensation' has no option 'ratio'; did you mean 'fraction'"),
    ],
)
def test_a_bad_option_is_refused(options, said):
    layer = nn.Linear(2, 2)
    before = list(layer.state_dict())
    with pytest.raises(ValueError, match=said):
        poise.normalize(layer, "spectral-compensation", **options)
    assert list(layer.state_dict()) == before
