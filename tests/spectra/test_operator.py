"""Layers as linear maps: against the layers themselves, and each map against its adjoint."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from poise.spectra import LinearMap, as_matrix, conv_map, matrix_map, singular_values
from poise.spectra.operator import effective_weight

# class, (in, out, kernel), options, input size
CONVOLUTIONS: list[tuple[Any, tuple, dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv1d, (2, 3, 3), {}, (7,)),
    (nn.Conv1d, (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (8,)),
    (nn.Conv1d, (1, 2, 2), {"padding": "same", "dilation": 3}, (6,)),  # one pixel more behind than before
    (nn.Conv1d, (2, 2, 3), {"padding": "valid"}, (6,)),
    (nn.Conv1d, (2, 1, 3), {"padding": 2, "padding_mode": "reflect", "stride": 3}, (6,)),
    (nn.Conv2d, (2, 3, 3), {"padding": 1}, (5, 4)),
    (nn.Conv2d, (3, 2, 1), {}, (3, 3)),
    (nn.Conv2d, (2, 2, 4), {"stride": 2, "padding": 1}, (6, 5)),
    (nn.Conv2d, (2, 3, (3, 2)), {"stride": (3, 2), "padding": (2, 0), "dilation": (1, 2)}, (6, 7)),
    (nn.Conv2d, (2, 2, 2), {"stride": 3}, (6, 7)),  # strides over pixels it never reads
    (nn.Conv2d, (4, 4, 3), {"groups": 4, "padding": 1}, (4, 4)),
    (nn.Conv2d, (2, 3, (4, 2)), {"padding": "same"}, (5, 4)),
    (nn.Conv2d, (2, 2, 3), {"padding": 1, "padding_mode": "circular"}, (4, 5)),
    (nn.Conv2d, (2, 2, (3, 4)), {"padding": "same", "padding_mode": "circular"}, (4, 5)),
    (nn.Conv2d, (2, 2, 3), {"padding": (1, 2), "padding_mode": "reflect", "stride": 2}, (4, 5)),
    (nn.Conv2d, (2, 2, 3), {"padding": (2, 1), "padding_mode": "replicate", "groups": 2}, (4, 3)),
    (nn.Conv2d, (2, 2, 3), {"padding_mode": "reflect"}, (4, 4)),  # a mode without any padding
    (nn.Conv3d, (2, 2, 2), {"stride": 2, "padding": 1}, (3, 4, 3)),
    (nn.Conv3d, (2, 4, (1, 3, 2)), {"groups": 2, "dilation": (1, 1, 2), "padding": "same"}, (2, 3, 4)),
    (nn.Conv3d, (1, 2, 3), {"padding": 1, "padding_mode": "replicate"}, (2, 3, 2)),
    (nn.Conv3d, (1, 2, 3), {"padding": (1, 0, 1), "padding_mode": "circular"}, (2, 3, 2)),
    (nn.ConvTranspose1d, (2, 3, 3), {}, (5,)),
    (nn.ConvTranspose1d, (4, 2, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (4,)),
    (nn.ConvTranspose1d, (2, 2, 2), {"dilation": 3, "output_padding": 2}, (4,)),  # output padding above the stride
    (nn.ConvTranspose2d, (3, 2, 4), {"stride": 2, "padding": 1}, (3, 4)),
    (nn.ConvTranspose2d, (2, 2, 3), {"padding": 1}, (4, 3)),
    (nn.ConvTranspose2d, (2, 3, (2, 3)), {"stride": (3, 1), "dilation": (1, 2), "output_padding": (2, 1)}, (3, 2)),
    (nn.ConvTranspose2d, (4, 4, 4), {"stride": 2, "padding": 1, "groups": 4}, (3, 3)),
    (nn.ConvTranspose3d, (2, 2, 3), {"stride": 2, "padding": 1, "output_padding": (1, 0, 1)}, (2, 2, 3)),
    (nn.ConvTranspose3d, (2, 4, (1, 2, 3)), {"groups": 2, "dilation": (1, 2, 1)}, (2, 2, 2)),
]

CONV_KINDS = list(dict.fromkeys(kind for kind, *_ in CONVOLUTIONS))


def name_of(case: tuple) -> str:
    kind, _, options, size = case
    words = [f"{key}={value}".replace(" ", "") for key, value in options.items()]
    return "-".join([kind.__name__, *words, "x".join(map(str, size))])


def build(case: tuple) -> tuple[Any, LinearMap]:
    torch.manual_seed(0)
    kind, channels, options, size = case
    layer = kind(*channels, **options).double()
    return layer, conv_map(layer, size)


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=name_of)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_convolutions_map_is_its_forward_without_the_bias(case):
    layer, linear_map = build(case)
    x = randn(3, *linear_map.in_shape)
    nn.init.zeros_(layer.bias)
    expected = layer(x).detach()
    nn.init.ones_(layer.bias)
    assert linear_map.out_shape == expected.shape[1:]
    torch.testing.assert_close(linear_map.matvec(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=name_of)
def test_inner_products_agree_on_both_sides(case):
    _, linear_map = build(case)
    x, y = randn(3, *linear_map.in_shape), randn(3, *linear_map.out_shape, seed=2)
    back = linear_map.rmatvec(y)
    assert back.shape == x.shape
    before = torch.einsum("ni,mi->nm", x.flatten(1), back.flatten(1))
    after = torch.einsum("ni,mi->nm", linear_map.matvec(x).flatten(1), y.flatten(1))
    torch.testing.assert_close(before, after, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=name_of)
def test_the_explicit_matrix_is_the_jacobian(case):
    layer, linear_map = build(case)
    x = randn(1, *linear_map.in_shape)
    jacobian = torch.autograd.functional.jacobian(layer, x).reshape(linear_map.shape)
    torch.testing.assert_close(linear_map.dense(), jacobian, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=name_of)
def test_a_convolutions_singular_values_are_its_jacobians(case):
    layer, linear_map = build(case)
    x = randn(1, *linear_map.in_shape)
    jacobian = torch.autograd.functional.jacobian(layer, x).reshape(linear_map.shape)
    expected = torch.linalg.svdvals(jacobian)
    torch.testing.assert_close(singular_values(layer, 4, "conv", case[3]), expected[:4], rtol=1e-6, atol=0)
    torch.testing.assert_close(singular_values(layer, None, "conv", case[3]), expected, rtol=1e-10, atol=1e-12)


def test_the_explicit_matrix_of_more_columns_than_one_block():
    linear_map = conv_map(nn.Conv2d(3, 2, 3, padding=1), (12, 12))
    matrix, x = linear_map.dense(), randn(2, *linear_map.in_shape)
    assert matrix.shape == (288, 432)
    torch.testing.assert_close(x.flatten(1) @ matrix.t(), linear_map.matvec(x).flatten(1))


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (1, 1), (4, 3, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("row_dim", [0, 1])
def test_a_weights_map_is_its_matrix(shape, row_dim):
    weight = randn(*shape)
    linear_map = matrix_map(weight, row_dim)
    matrix = as_matrix(weight, row_dim)
    assert linear_map.shape == matrix.shape
    assert torch.equal(linear_map.dense(), matrix)
    y = randn(2, len(matrix))
    torch.testing.assert_close(linear_map.rmatvec(y), y @ matrix)


def test_an_int_stands_for_a_square():
    layer = nn.Conv2d(1, 1, 3)
    assert conv_map(layer, 5).in_shape == conv_map(layer, (5, 5)).in_shape == (1, 5, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_maps_are_in_float64_unless_asked_otherwise(dtype):
    layer = nn.Conv1d(1, 1, 3).to(dtype)
    assert conv_map(layer, 5).dtype == matrix_map(layer.weight).dtype == torch.float64
    assert conv_map(layer, 5, torch.float32).matvec(torch.ones(1, 1, 5)).dtype == torch.float32


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_autocast_does_not_reach_the_map(kind):
    linear_map = conv_map(kind(2, 2, 3), 5)
    x = randn(1, 2, 5, 5)
    expected = linear_map.matvec(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear_map.matvec(x), expected)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_maps_work_in_inference_mode(kind):
    with torch.inference_mode():
        linear_map = conv_map(kind(2, 3, 3, padding=1), 4)
        assert linear_map.rmatvec(linear_map.matvec(randn(1, 2, 4, 4))).shape == (1, 2, 4, 4)


def test_reading_a_normalized_weight_runs_no_power_iteration():
    torch.manual_seed(0)
    layer = parametrizations.spectral_norm(nn.Conv2d(2, 3, 3))
    parts = list(layer.modules())
    parts[1].training = False  # a mixture of modes, to be put back as it was
    before, modes = copy.deepcopy(layer.state_dict()), [part.training for part in parts]
    weight = effective_weight(layer)
    assert [part.training for part in parts] == modes
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert torch.equal(weight, effective_weight(layer.eval()))
    assert not weight.requires_grad


def test_modes_come_back_when_reading_fails():
    class Broken(nn.Module):
        @property
        def weight(self):
            raise RuntimeError("no weight today")

    layer = Broken()
    with pytest.raises(RuntimeError, match="no weight today"):
        effective_weight(layer)
    assert layer.training


CONV = nn.Conv2d(1, 1, 3, padding=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv_map(nn.Linear(2, 2), 4), "Linear is no convolution; known: Conv1d"),
        (lambda: conv_map(CONV, (4,)), "Conv2d needs 2 spatial sizes"),
        (lambda: conv_map(CONV, (1, 4, 4)), "without batch and channels"),
        (lambda: conv_map(CONV, (4, 0)), "at least 1"),
        (lambda: conv_map(nn.Conv2d(1, 1, 5), 4), r"\(4, 4\) is too small .* padded, it is \(4, 4\)"),
        (lambda: conv_map(nn.Conv1d(1, 1, 3, padding=2, padding_mode="reflect"), 2), r"\(2,\) is too small"),
        (lambda: conv_map(nn.ConvTranspose1d(1, 1, 2, padding=2), 2), r"its output would be \(-1,\)"),
        (lambda: matrix_map(torch.ones(3)), r"shape \(3,\); .* at least 2 dimensions"),
        (lambda: effective_weight(nn.ReLU()), "ReLU has no weight"),
        (lambda: effective_weight(nn.LayerNorm(2, elementwise_affine=False)), "LayerNorm has no weight"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", CONV_KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("option", ["stride", "padding", "dilation", "groups"])
def test_the_table_covers_every_kind(kind, option):
    assert any(option in options for other, _, options, _ in CONVOLUTIONS if other is kind)
